"""Locks on files, which the system releases when their process ends, however it ends."""

from __future__ import annotations

import os


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
