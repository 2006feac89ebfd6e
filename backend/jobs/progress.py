"""Report the progress of a job and its remaining time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ProgressReporter(Protocol):
    """Receives the progress of one job.

    Every method raises errors.Cancelled once the job has been cancelled; a job calls one at least once per step.
    """

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        """Report completed work; the arguments are the fields of messages.ProgressEvent."""
        ...

    def preview(self, name: str, picture: np.ndarray) -> None:
        """Report an intermediate state of result `name`: (H, W, 3) uint8, at most 256 wide."""
        ...

    def check_cancelled(self) -> None:
        """Only raise Cancelled where the job has been cancelled."""
        ...


class Silent:
    """A ProgressReporter that reports nothing, but is cancelled with `reporter`; without one, never."""

    def __init__(self, reporter: ProgressReporter | None = None) -> None:
        self._reporter = reporter

    def check_cancelled(self) -> None:
        if self._reporter is not None:
            self._reporter.check_cancelled()

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        self.check_cancelled()

    def preview(self, name: str, picture: np.ndarray) -> None:
        self.check_cancelled()


def report_loading(reporter: ProgressReporter, stage: str) -> None:
    """Report the start of a stage without steps, before the first step of the job."""
    reporter.progress(stage, 0, 0, 0.0, None)


@dataclass(frozen=True)
class Stage:
    """A stage of `steps` steps of equal `cost`, in any unit common to all stages of a job."""

    label: str
    steps: int
    cost: float = 1.0
    #: False for a stage that is a single operation (decoding): it is reported without step numbers.
    counted: bool = True


class StagedProgress:
    """Progress through consecutive stages; the remaining time is estimated from their costs."""

    def __init__(self, reporter: ProgressReporter, stages: Sequence[Stage]) -> None:
        self.reporter = reporter
        self._stages = list(stages)
        self._total = sum(stage.steps * stage.cost for stage in stages)
        self._done = 0.0
        self._index = 0
        self._step = 0
        self._started = time.monotonic()

    def step_done(self) -> None:
        """Report a completed step of the current stage. Raise the reporter's Cancelled."""
        stage = self._stages[self._index]
        self._step += 1
        self._done += stage.cost
        step = self._step
        if step == stage.steps:
            self._index, self._step = self._index + 1, 0
        left = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        counted = (step, stage.steps) if stage.counted else (0, 0)
        self.reporter.progress(stage.label, *counted, min(self._done / self._total, 1.0), max(left, 0.0))
