"""The estimate of memory, compared with a trace at full size with fake tensors (bench/memory.py), and documented."""

import importlib.util
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[4] / "bench"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench_memory = load("memory")

GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "streams", "height", "most_gib"), [(5, 2, 512, 1.95), (5, 2, 1024, 3.85), (1, 3, 720, 2.39)]
)
def test_need_is_estimated_within_5_percent_and_never_under(tasks, streams, height, most_gib):
    traced, estimated = bench_memory.trace_step(tasks, streams, height)
    assert 1 <= estimated / traced < 1.05
    assert traced < most_gib * GIB
    if streams == 2:
        for mode, (counted, total) in bench_memory.sums(tasks, height, traced).items():
            assert 1 <= total / counted < 1.05, mode


@pytest.mark.slow
def test_vae_is_estimated_within_5_percent_and_never_under():
    encoding, decoding, estimated = bench_memory.trace_vae(512, 1024)
    assert encoding < decoding
    assert 1 <= estimated / decoding < 1.05


@pytest.mark.slow
def test_table_of_cards_is_that_of_the_estimate():
    cards, readme = load("cards"), (BENCH.parent / "README.md").read_text(encoding="utf-8")
    for name, per_parameter in cards.WEIGHTS.items():
        row = next(line for line in readme.splitlines() if line.startswith(f"| {name} ("))
        written = [int(cell) for cell in row.split("|")[2:-1]]
        assert written == [round(cards.arriving(card, per_parameter)) for card in cards.CARDS]
