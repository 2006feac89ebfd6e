"""The estimate of memory compared with a trace at FLUX.1-dev's full size, with fake tensors (bench/memory.py)."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("bench_memory", Path(__file__).parents[4] / "bench" / "memory.py")
assert _SPEC
assert _SPEC.loader
bench_memory = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench_memory)

GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "streams", "height", "most_gib"), [(5, 2, 512, 1.95), (5, 2, 1024, 3.85), (1, 3, 720, 2.39)]
)
def test_activations_are_estimated_within_5_percent_and_never_under(tasks, streams, height, most_gib):
    traced, estimated = bench_memory.trace_step(tasks, streams, height)
    assert 1 <= estimated / traced < 1.05
    assert traced < most_gib * GIB


@pytest.mark.slow
def test_vae_is_estimated_within_5_percent_and_never_under():
    encoding, decoding, estimated = bench_memory.trace_vae(512, 1024)
    assert encoding < decoding
    assert 1 <= estimated / decoding < 1.05
