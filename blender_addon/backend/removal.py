"""Removal of the backend's environment: gigabytes that uninstalling the extension leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...shared.protocol.errors import BackendError
from . import installer
from .environment_task import EnvironmentTask


class _Removed:
    """How many of the files are removed."""

    def __init__(self) -> None:
        self.text = "Removing the backend"
        self.count, self.of = 0, 1

    @property
    def fraction(self) -> float:
        return min(self.count / self.of, 1.0)


class Removal(EnvironmentTask):
    """A removal of the environment; what else is in the folder stays."""

    label = "Remove Backend"
    _cancelled_message = "The removal was cancelled.", "Remove the backend again, or set it up again to use it."

    def __init__(self, folder: Path, before: Callable[[], None] | None = None) -> None:
        super().__init__(folder, before)
        self.progress = _Removed()

    def _work(self) -> None:
        self._check_cancelled()
        installer.check_own(self.environment)
        if not self.environment.exists():
            raise BackendError(f"There is no environment in {self.folder}.", "Nothing is to be removed.")
        with installer.locked(self.folder / installer.LOCK):
            installer.mark(self.environment)
            self.progress.of = 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(self.environment))
            # The marker is the last file: until then, it is known whose environment this is.
            for folder, folders, files in os.walk(self.environment, topdown=False):
                for name in (*folders, *files):
                    self._check_cancelled()
                    path = Path(folder, name)
                    if path != self.environment / installer.MARKER:
                        _remove(path)
                    self.progress.count += 1
            (self.environment / installer.MARKER).unlink()
            self.environment.rmdir()
            self.progress.count = self.progress.of

    def _from_os_error(self, error: OSError) -> BackendError:
        return BackendError(
            f"{error.filename or self.environment} can't be removed: {error.strerror}.",
            "Close other programs that use it, as another Blender, and remove the backend again.",
        )


def _remove(path: Path) -> None:
    """Remove a file, an empty folder, or a link, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
