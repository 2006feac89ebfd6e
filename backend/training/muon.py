"""The optimiser: Muon for matrices and convolutions, AdamW for everything else, under one learning rate.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) turns a matrix's momentum into the nearest
semi-orthogonal one. Scaled to AdamW's usual step (Liu et al., arXiv 2502.16982), both take the same learning rate.
`torch.optim.Muon` takes neither convolutions nor stacks of adapters.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

_ADAM_BETAS = (0.9, 0.95)
_ADAM_EPS = 1e-8
_MOMENTUM = 0.95
#: Newton–Schulz's quintic, of Jordan et al.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(…, rows, columns) → matrices with the same singular vectors and singular values near 1."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _as_matrices(tensor: Tensor) -> Tensor:
    """A convolution's kernel (out, in, h, w) as one matrix; matrices and stacks of them as they are."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor


class Muon(torch.optim.Optimizer):
    """Steps `module`'s parameters; weight decay is AdamW's.

    `by_adam`: names of matrices that AdamW steps too. First and last layers learn faster by it, as Jordan et al. found.
    """

    def __init__(self, module: nn.Module, by_adam: Collection[str] = (), weight_decay: float = 0.01) -> None:
        super().__init__(module.parameters(), {"lr": 0.0, "weight_decay": weight_decay})
        self._by_adam = {parameter for name, parameter in module.named_parameters() if name in by_adam}

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                by_adam = parameter.ndim < 2 or parameter in self._by_adam
                update = self._adam if by_adam else self._orthogonal
                parameter.add_(update(parameter), alpha=-group["lr"])

    def _orthogonal(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        update = _as_matrices(gradient.lerp(momentum, _MOMENTUM))
        update = orthogonalised(update) * (0.2 * max(update.shape[-2:]) ** 0.5)
        return update.reshape(parameter.shape)

    def _adam(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        if not state:
            state |= {
                "step": torch.zeros(()),
                "mean": torch.zeros_like(parameter),
                "square": torch.zeros_like(parameter),
            }
        state["step"] += 1
        count, (first, second) = float(state["step"]), _ADAM_BETAS
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean, square = state["mean"] / (1 - first**count), state["square"] / (1 - second**count)
        return mean / (square.sqrt() + _ADAM_EPS)
