"""Report how far a job is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ProgressReporter(Protocol):
    """Takes the progress of one job to whoever waits for it.

    Every method raises errors.Cancelled once the job is to stop, so a job calls one of them at least once a step.
    """

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        """Report work that was done: see messages.ProgressEvent for the fields."""
        ...

    def preview(self, name: str, picture: np.ndarray) -> None:
        """Show what result `name` looks like so far: (H, W, 3) uint8, at most 256 wide."""
        ...

    def check_cancelled(self) -> None:
        """Report nothing; only raise where the job is to stop."""
        ...


def report_loading(reporter: ProgressReporter, stage: str) -> None:
    """Report that a stage without steps begins, before the first step of the job."""
    reporter.progress(stage, 0, 0, 0.0, None)


@dataclass(frozen=True)
class Stage:
    """`steps` steps of equal `cost`, in any unit that all stages of a job share."""

    label: str
    steps: int
    cost: float = 1.0
    #: False for a stage that is one step by nature (decoding): it is reported without a number.
    counted: bool = True


class StagedProgress:
    """Progress through stages that are done in the order given; the time left follows from their costs."""

    def __init__(self, reporter: ProgressReporter, stages: Sequence[Stage]) -> None:
        self.reporter = reporter
        self._stages = list(stages)
        self._total = sum(stage.steps * stage.cost for stage in stages)
        self._done = 0.0
        self._index = 0
        self._step = 0
        self._began = time.monotonic()

    def step_done(self) -> None:
        """Report a step of the current stage. Raise Cancelled out of the reporter."""
        stage = self._stages[self._index]
        self._step += 1
        self._done += stage.cost
        step = self._step
        if step == stage.steps:
            self._index, self._step = self._index + 1, 0
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        counted = (step, stage.steps) if stage.counted else (0, 0)
        self.reporter.progress(stage.label, *counted, min(self._done / self._total, 1.0), max(left, 0.0))
