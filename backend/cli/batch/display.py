"""Show the workers of a batch on stderr, where that is a terminal: a bar for the batch, and one for each worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn


class Display:
    """The progress of all workers. Use as a context manager."""

    def __init__(self, total: int) -> None:
        """`total`: the number of panoramas."""
        console = Console(stderr=True, highlight=False)
        #: Whether anything is seen.
        self.shown = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console, transient=True, redirect_stdout=False, disable=not self.shown,
        )  # fmt: skip
        self._batch = self._bars.add_task("All panoramas", total=total, state="")
        self._workers: dict[int, TaskID] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def batch(self, done: int) -> None:
        """Show how many panoramas are done."""
        self._bars.update(self._batch, completed=done)

    def worker(self, number: int, state: str, fraction: float) -> None:
        """Show what a worker does; `fraction` in [0, 1] is how much of its panorama is done."""
        if number not in self._workers:
            self._workers[number] = self._bars.add_task(f"Worker {number}", total=1.0, state="")
        self._bars.update(self._workers[number], completed=fraction, state=state)

    def remove(self, number: int) -> None:
        """Show a worker no longer."""
        if number in self._workers:
            self._bars.remove_task(self._workers.pop(number))

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bars while lines are printed."""
        self._bars.stop()
        yield
        self._bars.start()
