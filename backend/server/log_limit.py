"""Limit the log of this process: a file that others gave it as stderr, into which native libraries write too."""

from __future__ import annotations

import os
import stat

#: When a log is longer than the first, only its end is kept, so much as the second.
MAX_BYTES, KEPT_BYTES = 8 * 2**20, 2**20
_CUT = b"(The beginning of this log is not kept.)\n"


def limit(descriptor: int = 2) -> None:
    """Shorten the file behind a descriptor that is open for appending, if it is too long.

    It may be open for writing only; then nothing of it can be kept.
    """
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size <= MAX_BYTES:
            return
        end = _end(descriptor, found.st_size)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, _CUT + end)
    except OSError:  # no file, or not one that can be shortened: there is no other place to tell
        return


def _end(descriptor: int, size: int) -> bytes:
    if not hasattr(os, "pread"):  # Windows
        return b""
    try:
        return os.pread(descriptor, KEPT_BYTES, size - KEPT_BYTES).partition(b"\n")[2]
    except OSError:
        return b""
