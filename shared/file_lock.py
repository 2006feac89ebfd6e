"""Locks on files and folders, which the system releases when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STEP_S = 0.01


def try_lock(handle: int) -> bool:
    """Lock an open file; return False if it is locked already, in this process or in another one.

    Raise OSError where the file system has no locks.
    """
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is Windows'
        return False
    return True


@contextmanager
def one_at_a_time(folder: Path, patience_s: float) -> Iterator[None]:
    """Wait until no other such block runs for a folder, in any process. Raise TimeoutError after `patience_s`.

    Nothing is waited for on Windows, where folders have no locks, where the file system has none, and for a folder that
    one may not list.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        yield
        return
    try:
        end = time.monotonic() + patience_s
        while _is_taken(handle):
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "another process writes to it and does not end")
            time.sleep(_STEP_S)
        yield
    finally:
        os.close(handle)


def _is_taken(folder: int) -> bool:
    try:
        return not try_lock(folder)
    except OSError:  # a file system without locks
        return False
