"""Inputs of bench/fuzz.py, which reach much of the code or failed once: all are read, or refused as Panoform does."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("bench_fuzz", Path(__file__).parents[2] / "bench" / "fuzz.py")
assert _SPEC is not None
assert _SPEC.loader is not None
bench_fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench_fuzz)


@pytest.mark.parametrize("target", bench_fuzz.TARGETS)
def test_inputs_are_read_or_refused(target):
    seeds = bench_fuzz.seeds(target)
    assert seeds
    for seed in seeds:
        content = seed.read_bytes()
        for data in (content, content[: len(content) // 2], b""):
            bench_fuzz.TARGETS[target](data)
