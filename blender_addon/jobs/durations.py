"""How long jobs took on this computer: an estimate for the next ones, also after Blender's end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable
from pathlib import Path

import msgspec

from ...shared import json_file
from ...shared.atomic_write import atomic_write
from ...shared.protocol.errors import OutputError
from .. import preferences

#: Most durations that are kept; the oldest are removed first.
_MOST = 100


class Durations:
    """Seconds that the last job with each cost (`JobSpec.cost`) took, kept beside the backend's environment."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._seconds: dict[str, float] = {}

    def __contains__(self, cost: Hashable) -> bool:
        return _key(cost) in self._known()

    def __getitem__(self, cost: Hashable) -> float:
        return self._known()[_key(cost)]

    def __setitem__(self, cost: Hashable, seconds: float) -> None:
        known = self._known()
        known.pop(_key(cost), None)
        known[_key(cost)] = seconds
        while len(known) > _MOST:
            del known[next(iter(known))]
        # Flushing a disk may take long.
        threading.Thread(target=_write, args=(_file(), msgspec.json.encode(known))).start()

    def _known(self) -> dict[str, float]:
        """Return the durations, read once from each folder that the preferences name."""
        if self._file != _file():
            self._file = _file()
            try:
                self._seconds = json_file.read(self._file, dict[str, float])
            except (OSError, ValueError):
                self._seconds = {}  # none were kept, or the file is damaged: they are measured again
        return self._seconds


def _file() -> Path:
    return preferences.get().environment_folder() / "durations.json"


def _key(cost: Hashable) -> str:
    return msgspec.json.encode(cost).decode()


def _write(path: Path, content: bytes) -> None:
    # Without it, an estimate is missing in the next Blender: no reason for an error beside a result.
    with contextlib.suppress(OutputError):
        atomic_write(path, content)
