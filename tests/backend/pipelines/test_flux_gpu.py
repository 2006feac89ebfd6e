"""The benchmark of bench/flux_gpu.py runs from beginning to end, as there is only one try on a lent GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "bench" / "flux_gpu.py"
STAGES = "resident,exact,card 12,card 8,card 24,card 16,large,sequential,decode"  # without compiling, half a minute


@pytest.mark.slow
def test_benchmark_runs_at_tiny_size():
    done = subprocess.run(
        # The script's own limit, of a lent GPU, would end it on a busy machine.
        [sys.executable, str(SCRIPT), "--tiny", "--stages", STAGES, "--seconds", "600"],
        capture_output=True, text=True, encoding="utf-8", check=False, env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: none" in done.stdout
    assert done.stdout.count("bit-equal to one pass: True") == 2
    assert done.stdout.count("bit-equal to it: True") == 4
    difference = re.search(r"own forward, with its modulation: (\S+)", done.stdout)
    assert difference
    assert float(difference[1]) < 1e-4  # what the target does not depend on is left out: other rounding
    assert "SEQUENTIAL OFFLOAD" in done.stdout
