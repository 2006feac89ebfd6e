"""Logs of other programs: readable by their owner only, because they name files and models, and of limited size.

The backend limits its own (backend/server/log_limit.py).
"""

from __future__ import annotations

import io
import os
from pathlib import Path

#: Of a log that this process writes.
MAX_BYTES = 8 * 2**20
_CUT = "… the rest is not kept.\n"


def create(path: Path) -> io.FileIO:
    """Create an empty log, open for reading and appending, readable by its owner only (on Windows: as its folder is).

    Raise OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # each exists on one system only
    log = io.FileIO(os.open(path, flags, 0o600), "a+")
    if os.name == "posix":
        os.fchmod(log.fileno(), 0o600)  # of an earlier version
    return log


class BoundedLog(io.TextIOWrapper):
    """A log as text: what exceeds MAX_BYTES is left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.BufferedWriter(create(path)), encoding="utf-8", errors="replace", write_through=True)
        self._left = MAX_BYTES

    def write(self, text: str, /) -> int:
        if self._left > 0:
            self._left -= len(text.encode("utf-8", "replace"))
            super().write(text if self._left > 0 else _CUT)
        return len(text)
