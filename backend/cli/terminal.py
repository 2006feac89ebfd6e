"""Show a job's progress on stderr: a progress bar on a terminal, otherwise one line per stage."""

from __future__ import annotations

import sys

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class Terminal:
    """A ProgressReporter that draws on stderr. Use as a context manager.

    `stages`: whether stages are printed where stderr is no terminal.
    """

    def __init__(self, *, stages: bool = True) -> None:
        self._stages = stages
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, left="")
        self._stage = ""

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        text = f"{stage} {step}/{of}" if of else stage
        left = "" if seconds_left is None else f"{int(seconds_left) // 60}:{int(seconds_left) % 60:02} left"
        self._bar.update(self._task, completed=fraction, description=text, left=left)
        if self._stages and not self._console.is_terminal and stage != self._stage:
            print(f"{round(100 * fraction):3} % {stage}", file=sys.stderr, flush=True)
        self._stage = stage

    def preview(self, name: str, picture: np.ndarray) -> None:
        pass

    def check_cancelled(self) -> None:
        pass
