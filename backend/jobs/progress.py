"""How far a job is, and how long it will still take, from the work that was timed so far."""

from __future__ import annotations

import time

import numpy as np

from .watch import Watch


class Progress:
    """Tells a watch of a job whose work is, for each of `tasks`, `steps` steps of the transformer and one decoding."""

    def __init__(self, watch: Watch, tasks: int, steps: int) -> None:
        self._watch = watch
        self._tasks = tasks
        self._steps = steps
        self._label = ""
        self._step_s: list[float] = []
        self._decode_s: list[float] = []
        self._since = time.monotonic()

    def begin(self, label: str) -> None:
        """The next task is `label`'s."""
        self._label = label
        self._since = time.monotonic()

    def stepped(self) -> None:
        """A step was done. Raises Cancelled out of the watch."""
        self._step_s.append(self._lap())
        self._tell(self._label, (len(self._step_s) - 1) % self._steps + 1, self._steps)

    def decoded(self) -> None:
        """A map was decoded. Raises Cancelled out of the watch."""
        self._decode_s.append(self._lap())
        self._tell(f"Decoding {self._label}", 0, 0)

    def preview(self, name: str, picture: np.ndarray) -> None:
        """What map `name` looks like so far. Raises Cancelled out of the watch."""
        self._watch.preview(name, picture)

    def _lap(self) -> float:
        now = time.monotonic()
        spent, self._since = now - self._since, now
        return spent

    def _tell(self, stage: str, step: int, of: int) -> None:
        steps_left = self._tasks * self._steps - len(self._step_s)
        decodes_left = self._tasks - len(self._decode_s)
        step_s = sum(self._step_s) / len(self._step_s)
        decode_s = sum(self._decode_s) / len(self._decode_s) if self._decode_s else step_s
        fraction = 1 - (steps_left + decodes_left) / (self._tasks * (self._steps + 1))
        self._watch.progress(stage, step, of, fraction, steps_left * step_s + decodes_left * decode_s)
