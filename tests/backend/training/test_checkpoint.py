"""Checkpoints: training resumes exactly; a damaged checkpoint is rejected."""

import sys

import pytest
import torch
from torch import nn

from panoform.backend.training import checkpoint
from panoform.shared.protocol.errors import OutputError, WeightsError


def start() -> tuple[nn.Module, checkpoint.Average, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return module, checkpoint.Average(module, 0.9), torch.optim.AdamW(module.parameters(), 1e-2)


def train(module, average, optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        average.update(module, step + 1)


def test_interrupted_run_resumes_exactly(tmp_path):
    whole = start()
    train(*whole, 0, 20)
    half = start()
    train(*half, 0, 10)
    checkpoint.save(tmp_path / "a.safetensors", 10, *half)
    resumed = start()
    assert checkpoint.load(tmp_path / "a.safetensors", *resumed) == 10
    train(*resumed, 10, 20)
    for key, value in whole[0].state_dict().items():
        torch.testing.assert_close(resumed[0].state_dict()[key], value)
        torch.testing.assert_close(resumed[1].weights[key], whole[1].weights[key])


def test_missing_checkpoint_loads_as_step_0(tmp_path):
    assert checkpoint.load(tmp_path / "none.safetensors", *start()) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_rejected(tmp_path, share):
    path = tmp_path / "a.safetensors"
    run = start()
    train(*run, 0, 2)
    checkpoint.save(path, 2, *run)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"a\.safetensors is damaged"):
        checkpoint.load(path, *start())


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
def test_failed_save_keeps_the_old_checkpoint(tmp_path):
    import resource

    path = tmp_path / "a.safetensors"
    run = start()
    train(*run, 0, 2)
    checkpoint.save(path, 2, *run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
    try:
        with pytest.raises(OutputError, match="written"):
            checkpoint.save(path, 3, *run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path, *start()) == 2
    assert list(tmp_path.iterdir()) == [path]
