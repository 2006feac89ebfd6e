"""Work on the backend's environment, on a thread of its own: its progress, its end and its cancellation."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from ...shared.protocol.errors import Cancelled, PanoformError, unexpected


class Progress(Protocol):
    """How far the work is."""

    text: str

    @property
    def fraction(self) -> float: ...


class EnvironmentTask(ABC):
    """A task in Panoform's folder. When `done`, `error` is None or the reason of the failure.

    `progress` describes the current step, and how much is done.
    """

    #: What it does, as on the button that starts it.
    label: ClassVar[str]
    #: The message and the hint of its cancellation.
    _cancelled_message: ClassVar[tuple[str, str]]

    progress: Progress

    def __init__(self, folder: Path, before: Callable[[], None] | None) -> None:
        """`before` is called first, on the thread (to wait for a backend that uses the environment)."""
        self.folder = folder.absolute()  # programs run in a folder of their own
        self._before = before
        self.error: PanoformError | None = None
        self._began = time.monotonic()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panoform-setup", daemon=True)

    @property
    def environment(self) -> Path:
        return self.folder / "environment"

    @property
    def log(self) -> Path:
        return self.environment / "setup.log"

    @property
    def cancelling(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    @property
    def status(self) -> str:
        """The current step, or "Cancelling"."""
        return "Cancelling" if self.cancelling else self.progress.text

    @property
    def bar_text(self) -> str:
        """The progress and the elapsed time, as in "42 % · 1:05"."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{self.progress.fraction:.0%} · {minutes}:{seconds:02}".replace("%", " %")

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def cancel(self, *, wait: bool = False) -> None:
        """Cancel it; `wait` until it has ended."""
        self._cancelled.set()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before()
            self._work()
        except PanoformError as error:
            self.error = error
        except OSError as error:
            self.error = self._from_os_error(error)
        except Exception as error:
            self.error = unexpected(error)

    def _check_cancelled(self) -> None:
        if self.cancelling:
            raise Cancelled(*self._cancelled_message)

    @abstractmethod
    def _work(self) -> None:
        """Do the work. Raise PanoformError, OSError."""

    @abstractmethod
    def _from_os_error(self, error: OSError) -> PanoformError:
        """Return the error that the user is told."""
