"""The optimiser: Muon for matrices and convolutions, AdamW for everything else, under one learning rate.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) turns a matrix's momentum into the nearest
semi-orthogonal one. Scaled to AdamW's usual step (Liu et al., arXiv 2502.16982), both take the same learning rate.
`torch.optim.Muon` takes neither convolutions nor stacks of adapters.
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


def _as_matrix(tensor: Tensor) -> Tensor:
    """A convolution's kernel (out, in, h, w) as one matrix; matrices and stacks of them as they are."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor


class Muon(torch.optim.Optimizer):
    """Steps `module`'s parameters; weight decay is AdamW's.

    `by_adam`: names of matrices that AdamW steps too. First and last layers learn faster by it, as Jordan et al. found.
    `workers`: the processes that step the same module by the same gradients; each orthogonalises its share.
    """

    def __init__(
        self,
        module: nn.Module,
        by_adam: Collection[str] = (),
        weight_decay: float = 0.01,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(module.parameters(), {"lr": 0.0, "weight_decay": weight_decay})
        self._by_adam = {parameter for name, parameter in module.named_parameters() if name in by_adam}
        self._workers = workers or Workers()

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [p for p in moved if p.ndim >= 2 and p not in self._by_adam]
            others = [p for p in moved if p.ndim < 2 or p in self._by_adam]
            updates = self._orthogonal(matrices) + self._adam(others)
            parameters = matrices + others
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _orthogonal(self, parameters: list[Tensor]) -> list[Tensor]:
        updates = self._ahead(parameters)
        rank, count = self._workers.rank, self._workers.count
        for alike in _by_shape(updates[rank::count]):
            # One call for all matrices of a shape: on a GPU they would take longer to start than to compute.
            made = orthogonalised(torch.stack([_as_matrix(update) for update in alike]))
            made *= 0.2 * max(made.shape[-2:]) ** 0.5
            for update, matrix in zip(alike, made, strict=True):
                update.copy_(matrix.view_as(update))
        for index, update in enumerate(updates):
            if index % count != rank:
                update.zero_()
        self._workers.add_up(updates)
        return updates

    def _ahead(self, parameters: list[Tensor]) -> list[Tensor]:
        """Nesterov's momentum of the gradients."""
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
