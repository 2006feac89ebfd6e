"""The running job: its progress, and what is said where it takes long."""

from __future__ import annotations

import dataclasses
import time
from typing import ClassVar

import numpy as np

from ..translation import tr
from .specs import JobSpec, Result

#: A job without a step for this many times its longest one, and for at least this many seconds, may be stuck.
_SLOW_FACTOR, _SLOW_S = 10, 60.0
#: Seconds without a report, until their number is shown, so that the bar is not still.
_STILL_S = 3.0


@dataclasses.dataclass(eq=False)
class Job:
    """A running job; progress fields as in ProgressEvent."""

    #: Seconds that a cancelled job may take to stop, until the backend is restarted.
    PATIENCE_S: ClassVar[float] = 10.0

    spec: JobSpec
    #: None until it is sent.
    id: str | None = None
    stage: str = "Waiting for the backend"
    step: int = 0
    of: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None
    #: Latest preview of each map, (H, W, 3) uint8; the newest is the last entry.
    previews: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    cancelling: bool = False
    #: When it was cancelled, and when it last reported anything (`time.monotonic`).
    cancelled_at: float = 0.0
    reported_at: float = dataclasses.field(default_factory=time.monotonic)
    #: The longest time between two reports, in seconds.
    longest_s: float = 0.0
    #: What is kept if the job fails: the result of the job that it follows. None if it follows none.
    kept: Result | None = None

    def report(self) -> None:
        """Note that it has reported something."""
        now = time.monotonic()
        self.longest_s, self.reported_at = max(self.longest_s, now - self.reported_at), now

    @property
    def text(self) -> str:
        """The progress, as in "Normal 12/28 · 0:41 left"."""
        stage = tr(self.stage)
        parts = [f"{stage} {self.step}/{self.of}" if self.of else stage]
        if self.cancelling:
            parts = [tr("Cancelling")]
        elif self.seconds_left is not None:
            parts.append(tr("{time} left", time=clock(self.seconds_left)))
        return " · ".join(parts)

    @property
    def bar_text(self) -> str:
        """The progress for a bar, where silence has its time: "Starting · 0:07"."""
        silent = time.monotonic() - self.reported_at
        return self.text if silent < _STILL_S or self.cancelling else f"{self.text} · {clock(silent)}"

    @property
    def restart_in_s(self) -> float:
        """Seconds until the backend of the cancelled job is restarted."""
        return self.PATIENCE_S - (time.monotonic() - self.cancelled_at)

    @property
    def slow(self) -> str:
        """What the panel says of a job that takes long; "" for nothing."""
        if self.cancelling:
            return tr(
                "If the job does not stop, the backend is restarted in {seconds:.0f} s.",
                seconds=max(self.restart_in_s, 0),
            )
        silent = time.monotonic() - self.reported_at
        if self.id is None or silent < max(_SLOW_S, _SLOW_FACTOR * self.longest_s):
            return ""
        if self.longest_s < 1:
            return tr("No step for {time}. Wait, or cancel the job if it is stuck.", time=clock(silent))
        return tr(
            "No step for {time} (the longest took {longest}). Wait, or cancel the job if it is stuck.",
            time=clock(silent),
            longest=clock(self.longest_s),
        )


def clock(seconds: float) -> str:
    """Return "0:05"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Return "40 s", "12 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
