"""How far a job of unequal stages is, and how long it will still take, by what its steps cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from .watch import Watch


@dataclass(frozen=True)
class Stage:
    """`steps` steps of equal `cost` (in any unit that all stages share)."""

    label: str
    steps: int
    cost: float


class Pace:
    """Tells a watch of stages that are done in the order given."""

    def __init__(self, watch: Watch, stages: Sequence[Stage]) -> None:
        self.watch = watch
        self._stages = list(stages)
        self._done: list[Stage] = []
        self._steps = 0
        self._began = time.monotonic()

    def stepped(self) -> None:
        """A step of the current stage was done. Raises Cancelled out of the watch."""
        self._steps += 1
        stage = self._stages[len(self._done)]
        done = sum(each.steps * each.cost for each in self._done) + self._steps * stage.cost
        total = sum(each.steps * each.cost for each in self._stages)
        left = (time.monotonic() - self._began) / done * (total - done)
        self.watch.progress(stage.label, self._steps, stage.steps, done / total, left)
        if self._steps == stage.steps:
            self._done.append(stage)
            self._steps = 0
