"""An approximation that saves time: where the first block changes little from step to step, the others are left out.

Their changes are then those of the last step that was computed, as in ParaAttention and diffusers' FirstBlockCache.
Each batch decides by the tokens of its own result, so that a map does not depend on which others are asked for.
"""

from __future__ import annotations

from torch import Tensor


class FirstBlockCache:
    """Changes of the tokens (rows, tokens, dim) of each batch at the last step that was computed."""

    def __init__(self, threshold: float) -> None:
        """`threshold`: the mean change of what the first block adds, relative to its mean, below which it is reused."""
        self._threshold = threshold
        #: Number of the batch → what the first block added, and all the others.
        self._added: dict[int, tuple[Tensor, Tensor]] = {}

    def reused(self, batch: int, before: Tensor, after: Tensor) -> Tensor | None:
        """Return the tokens after all blocks, from those before and after the first; None: compute them."""
        if batch not in self._added:
            return None
        first, rest = self._added[batch]
        change = (after - before - first).abs().mean() / first.abs().mean()
        return after + rest if change < self._threshold else None

    def keep(self, batch: int, before: Tensor, after: Tensor, final: Tensor) -> None:
        """Keep what a step that was computed has added."""
        self._added[batch] = after - before, final - after
