"""Quantised weights hardly change the starter's distances, by formats of files and `--dtype int8`."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
_SPEC = importlib.util.spec_from_file_location("bench_quantised", ROOT / "bench" / "quantised.py")
assert _SPEC
assert _SPEC.loader
bench_quantised = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench_quantised)

LIMITS = {"Q8_0": 0.001, "int8, per row": 0.002, "e4m3, per tensor": 0.005, "Q4_0": 0.015, "nf4": 0.015}


def test_distance_changes_by_less_than_the_limits():
    found = bench_quantised.changes(list(LIMITS), 128, ("distance",), [ROOT / "tests" / "scenes" / "room"])
    changes = {method: values["distance"] for method, values in found.items()}
    assert all(changes[method] < limit for method, limit in LIMITS.items()), changes
    # Each is measured: fewer bits change more.
    assert 0 < changes["Q8_0"] < changes["e4m3, per tensor"] < changes["Q4_0"]
