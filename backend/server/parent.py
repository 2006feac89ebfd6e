"""Exit when the parent process exits, detected by the end of the pipe on stdin.

The system closes that pipe however the parent ends, even if it crashes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import guardian

#: Seconds from the end of the parent until the guardian kills: longer than jobs have to stop (server.GRACE_S).
EXIT_AFTER_S = 5.0

#: The guardian, kept, as Python would warn of a child that is not waited for; and the pipe from the parent.
_guardian: subprocess.Popen[bytes] | None = None
_pipe = -1


def guard(*, exit_after_s: float, connection_file: Path) -> None:
    """Let guardian.py kill this process, `exit_after_s` after stdin is closed, where it can't exit by itself.

    Call it as early as possible: before, a process in which Python doesn't run outlives its parent. Later calls do
    nothing. Raise OSError if the guardian can't be started.
    """
    global _guardian, _pipe
    if _guardian is not None:
        return
    # Moved from fd 0, where a blocked read would hang libraries that access stdin on loading (Windows), and which
    # child processes would inherit.
    _pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    python = getattr(sys, "_base_executable", "") or sys.executable  # in a venv on Windows, not the launcher
    arguments = [str(os.getpid()), str(exit_after_s), str(connection_file.absolute())]
    _guardian = subprocess.Popen(
        [python, "-I", "-S", guardian.__file__, *arguments],
        stdin=_pipe,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def when_parent_exits(end: Callable[[], None], *, exit_after_s: float, connection_file: Path) -> None:
    """Call `end` from a separate thread once stdin is closed; exit `exit_after_s` later if still running.

    Where this process can't, as Python doesn't run in it, its guardian kills it then (`guard`). Raise OSError.
    """
    guard(exit_after_s=exit_after_s, connection_file=connection_file)

    def wait() -> None:
        while os.read(_pipe, 1024):
            pass
        end()
        time.sleep(exit_after_s)
        os._exit(1)

    threading.Thread(target=wait, name="panoform-parent", daemon=True).start()
