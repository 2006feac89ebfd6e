"""Data-parallel training in two processes equals training in one with both batches."""

import subprocess
import sys

import averaging
import psutil
import pytest
import torch
from safetensors.torch import load_file
from serving import wait_until

from panoform.backend.training import workers


@pytest.mark.slow
def test_two_processes_equal_one_with_both_batches(tmp_path):
    workers.run(2, averaging.average, tmp_path)
    module = averaging.model()
    module(averaging.inputs()).square().mean().backward()
    expected = averaging.parameters_after_step(module, workers.Workers())
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(found[f"gradient {name}"], parameter.grad)
            torch.testing.assert_close(found[name], expected[name])
        assert found["stop"]  # true in one of them


def test_single_process_needs_no_communication(tmp_path):
    workers.run(1, check_single_process, tmp_path)


def check_single_process(single: workers.Workers, folder) -> None:
    assert single.first
    assert single.agree(stop=True)
    assert not single.agree(stop=False)
    single.barrier()


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    first = subprocess.Popen([sys.executable, averaging.__file__, str(tmp_path)])
    wait_until(lambda: all(file.exists() and file.read_text("utf-8") for file in (tmp_path / "0", tmp_path / "1")))
    others = [psutil.Process(int((tmp_path / name).read_text("utf-8"))) for name in ("0", "1")]
    first.kill()
    first.wait()
    assert psutil.wait_procs(others, timeout=20)[1] == []
