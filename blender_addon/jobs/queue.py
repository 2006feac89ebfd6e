"""The jobs that wait for the running one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...shared.protocol.errors import BusyError
from .specs import JobSpec

#: Most jobs that wait: each may hold a panorama in memory.
MAX_WAITING = 32


class Queue:
    """Jobs that wait, the next one first."""

    def __init__(self) -> None:
        self._specs: list[JobSpec] = []
        #: Whether they wait until the user lets them go on.
        self.held = False

    def __len__(self) -> int:
        return len(self._specs)

    def __iter__(self) -> Iterator[JobSpec]:
        return iter(list(self._specs))

    @property
    def is_due(self) -> bool:
        """Whether the next job starts as soon as none runs."""
        return bool(self._specs) and not self.held

    @property
    def next(self) -> JobSpec:
        """The job that starts next. Raise IndexError where none waits."""
        return self._specs[0]

    def add(self, spec: JobSpec) -> None:
        """Append a job. Raise BusyError where too many wait; its render is stopped then."""
        if len(self._specs) >= MAX_WAITING:
            spec.close()
            raise BusyError(f"{MAX_WAITING} jobs are waiting already.", "Wait until some have ended, or remove some.")
        self._specs.append(spec)

    def take(self) -> JobSpec:
        """Remove the next job from the queue and return it."""
        return self._specs.pop(0)

    def remove(self, spec: JobSpec) -> None:
        """Remove a job that will not run, and stop its render."""
        self._specs.remove(spec)
        spec.close()

    def move_up(self, spec: JobSpec) -> None:
        """Let a job start before the one that is in front of it."""
        place = self._specs.index(spec)
        self._specs.insert(max(place - 1, 0), self._specs.pop(place))

    def clear(self) -> None:
        """Remove all jobs."""
        for spec in self:
            self.remove(spec)
        self.held = False

    def poll_renders(self, fail: Callable[[Exception], None]) -> None:
        """Keep what was rendered for the jobs, and remove those whose render failed or was stopped (`fail` is told)."""
        for spec in [spec for spec in self._specs if spec.is_rendering]:
            try:
                spec.poll_render()
            except Exception as error:
                self._specs.remove(spec)
                fail(error)
