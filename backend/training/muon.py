"""The optimiser: Muon for matrices and convolutions, AdamW for everything else, under one learning rate.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) turns a matrix's momentum into the nearest
semi-orthogonal one. Scaled to AdamW's usual step (Liu et al., arXiv 2502.16982), both take the same learning rate.
`torch.optim.Muon` takes neither convolutions nor stacks of adapters.
"""

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


def _as_matrices(tensor: Tensor) -> Tensor:
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
            updates = self._orthogonal(matrices)
            updates |= {p: self._adam(p) for p in moved if p not in updates}
            for parameter, update in updates.items():
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])

    def _orthogonal(self, parameters: list[Tensor]) -> dict[Tensor, Tensor]:
        updates = [self._ahead(parameter) for parameter in parameters]
        for index, update in enumerate(updates):
            if index % self._workers.count == self._workers.rank:
                made = orthogonalised(_as_matrices(update))
                update.copy_((made * (0.2 * max(made.shape[-2:]) ** 0.5)).reshape(update.shape))
            else:
                update.zero_()
        self._workers.add_up(updates)
        return dict(zip(parameters, updates, strict=True))

    def _ahead(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum of the gradient."""
        gradient = parameter.grad
        assert gradient is not None
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(momentum, _MOMENTUM)

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
