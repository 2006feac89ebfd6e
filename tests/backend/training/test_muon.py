"""The optimiser compared with PyTorch's Muon and AdamW."""

import copy

import pytest
import torch
from torch import nn

from panoform.backend.training.muon import Muon, orthogonalise


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv2d(2, 3, 3)
        self.stack = nn.Parameter(torch.randn(2, 3, 5))

    def loss(self) -> torch.Tensor:
        out = self.linear(torch.linspace(-1, 1, 6)).square().sum() + self.conv(torch.ones(1, 2, 4, 4)).sin().sum()
        return out + (self.stack * torch.linspace(0, 1, 5)).square().sum()


def run(module: Mixed, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        module.zero_grad()
        module.loss().backward()
        optimizer.step()


def ours(module: nn.Module) -> Muon:
    optimizer = Muon(module, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.01
    return optimizer


def test_matrices_are_updated_as_by_torchs_muon():
    one, other = Mixed(), Mixed()
    run(one, ours(one))
    theirs = torch.optim.Muon([other.linear.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    run(other, theirs)
    # torch computes the iteration in bfloat16.
    torch.testing.assert_close(one.linear.weight, other.linear.weight, atol=1e-3, rtol=1e-2)


def test_vectors_are_updated_as_by_adamw():
    one, other = Mixed(), Mixed()
    one.linear.weight.requires_grad_(False)
    other.linear.weight.requires_grad_(False)
    run(one, ours(one))
    run(other, torch.optim.AdamW([other.linear.bias], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)))
    torch.testing.assert_close(one.linear.bias, other.linear.bias)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (2, 3, 9)])
def test_singular_values_are_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert ((values > 0.6) & (values < 1.3)).all()


def test_kernels_and_stacks_are_updated_as_matrices():
    module = Mixed()
    before = module.conv.weight.detach().clone(), module.stack.detach().clone()
    optimizer = Muon(module, weight_decay=0.0)
    optimizer.param_groups[0]["lr"] = 1.0
    run(module, optimizer, steps=1)
    kernel, stack = before[0] - module.conv.weight.detach(), before[1] - module.stack.detach()
    for step, largest in ((kernel.flatten(1), 18), (stack[0], 5), (stack[1], 5)):
        assert torch.linalg.svdvals(step / (0.2 * largest**0.5))[0] == pytest.approx(1, abs=0.4)


def test_batching_by_shape_does_not_change_updates():
    torch.manual_seed(0)
    together = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)])
    alone = copy.deepcopy(together)
    inputs = {linear.in_features: torch.randn(3, linear.in_features) for linear in together}
    for modules in ([together], alone):
        for module in modules:
            optimizer = ours(module)
            for _ in range(3):
                module.zero_grad()
                for linear in module.modules():
                    if isinstance(linear, nn.Linear):
                        linear(inputs[linear.in_features]).sin().sum().backward()
                optimizer.step()
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other)
