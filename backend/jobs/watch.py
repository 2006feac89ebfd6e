"""What somebody who waits for a job wants to be told, and how they stop it."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Watch(Protocol):
    """Handed down to whoever does the work. Every method raises errors.Cancelled once the job is to stop."""

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        """Work was done: see messages.ProgressEvent for the fields."""
        ...

    def preview(self, name: str, picture: np.ndarray) -> None:
        """What map `name` looks like so far: (H, W, 3) uint8, at most 256 wide."""
        ...

    def check(self) -> None:
        """Between two pieces of work that nobody needs to be told of."""
        ...
