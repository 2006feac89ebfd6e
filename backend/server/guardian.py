"""A small process beside the backend: it ends a backend that does not exit after Blender did.

A backend whose Python doesn't run, as it is stopped, or a native call holds Python's lock, can't notice that.

Run by parent.py, as a child of the backend: guardian.py PID SECONDS CONNECTION_FILE, with the pipe from Blender as
stdin. Standard library only; it uses 8 MB of memory.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def guard(pid: int, patience_s: float, connection_file: str) -> None:
    """Wait for the end of stdin; then kill the process `pid`, the parent, unless it exits within `patience_s`."""
    is_running, kill = _process(pid)
    while os.read(0, 1024):
        pass
    end = time.monotonic() + patience_s
    while is_running():
        if time.monotonic() > end:
            kill()
            Path(connection_file).unlink(missing_ok=True)  # its keys are of no use any more
            return
        time.sleep(0.05)


def _process(pid: int) -> tuple[Callable[[], bool], Callable[[], None]]:
    """Return whether a process is running, and how to kill it: both as long as no other can have its number."""
    if sys.platform == "win32":
        import _winapi

        access = 0x0001 | 0x00100000  # PROCESS_TERMINATE | SYNCHRONIZE
        handle = _winapi.OpenProcess(access, False, pid)
        waited = 258  # WAIT_TIMEOUT
        return lambda: _winapi.WaitForSingleObject(handle, 0) == waited, lambda: _winapi.TerminateProcess(handle, 1)
    return lambda: os.getppid() == pid, lambda: os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
