"""The optimiser: Muon for matrices and convolutions, AdamW for everything else, under one learning rate.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
semi-orthogonal matrix. Scaled to AdamW's typical update (Liu et al., arXiv 2502.16982), both use the same learning
rate. `torch.optim.Muon` supports neither convolutions nor stacked adapters.
"""

# torch.optim's own optimisers use these functions; torch does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .workers import Workers

_ADAM_BETAS = (0.9, 0.95)
_ADAM_EPS = 1e-8
_MOMENTUM = 0.95
#: Coefficients of the quintic Newton–Schulz iteration, from Jordan et al.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Map matrices (…, rows, columns) to ones with the same singular vectors, and singular values near 1."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _as_matrix(tensor: Tensor) -> Tensor:
    """Reshape a convolution kernel (out, in, h, w) to a matrix; return matrices and stacks of them unchanged."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor


class Muon(torch.optim.Optimizer):
    """Update the parameters of `module`, with AdamW's weight decay.

    `adam_names`: names of matrices that are updated by AdamW, which Jordan et al. recommend for first and last layers.
    `workers`: processes that update the same module with the same gradients; each orthogonalises a share of matrices.
    """

    def __init__(
        self,
        module: nn.Module,
        adam_names: Collection[str] = (),
        weight_decay: float = 0.01,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(module.parameters(), {"lr": 0.0, "weight_decay": weight_decay})
        self._adam_parameters = {parameter for name, parameter in module.named_parameters() if name in adam_names}
        self._workers = workers or Workers()

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [p for p in moved if p.ndim >= 2 and p not in self._adam_parameters]
            others = [p for p in moved if p.ndim < 2 or p in self._adam_parameters]
            updates = self._orthogonal(matrices) + self._adam(others)
            parameters = matrices + others
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _orthogonal(self, parameters: list[Tensor]) -> list[Tensor]:
        updates = self._nesterov_momentum(parameters)
        rank, count = self._workers.rank, self._workers.count
        for alike in _by_shape(updates[rank::count]):
            # One call for all matrices of a shape, as separate GPU kernels would be dominated by launch time.
            made = orthogonalise(torch.stack([_as_matrix(update) for update in alike]))
            made *= 0.2 * max(made.shape[-2:]) ** 0.5
            for update, matrix in zip(alike, made, strict=True):
                update.copy_(matrix.view_as(update))
        for index, update in enumerate(updates):
            if index % count != rank:
                update.zero_()
        self._workers.all_reduce(updates)
        return updates

    def _nesterov_momentum(self, parameters: list[Tensor]) -> list[Tensor]:
        """Return the gradients' Nesterov momentum."""
        if not parameters:
            return []
        gradients = _gradients(parameters)
        momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        return list(torch._foreach_lerp(gradients, momenta, _MOMENTUM))

    def _adam(self, parameters: list[Tensor]) -> list[Tensor]:
        if not parameters:
            return []
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state |= {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
            state["step"] += 1
        gradients, counts, (first, second) = _gradients(parameters), [float(s["step"]) for s in states], _ADAM_BETAS
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        size = torch._foreach_sqrt(torch._foreach_div(squares, [1 - second**count for count in counts]))
        torch._foreach_add_(size, _ADAM_EPS)
        return list(torch._foreach_div(torch._foreach_div(means, [1 - first**count for count in counts]), size))


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _by_shape(tensors: list[Tensor]) -> list[list[Tensor]]:
    alike: dict[torch.Size, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.shape, []).append(tensor)
    return list(alike.values())
