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

#: Kept, as Python would warn of a child that is not waited for.
_guardians: list[subprocess.Popen[bytes]] = []


def when_parent_exits(end: Callable[[], None], *, exit_after_s: float, connection_file: Path) -> None:
    """Call `end` from a separate thread once stdin is closed; exit `exit_after_s` later if still running.

    Where this process can't, as Python doesn't run in it, guardian.py kills it then. Raise OSError if that can't be
    started.
    """
    # Moved from fd 0, where a blocked read would hang libraries that access stdin on loading (Windows), and which
    # child processes would inherit.
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    python = getattr(sys, "_base_executable", "") or sys.executable  # in a venv on Windows, not the launcher
    arguments = [str(os.getpid()), str(exit_after_s), str(connection_file.absolute())]
    _guardians.append(
        subprocess.Popen(
            [python, "-I", "-S", guardian.__file__, *arguments],
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    )

    def wait() -> None:
        while os.read(pipe, 1024):
            pass
        end()
        time.sleep(exit_after_s)
        os._exit(1)

    threading.Thread(target=wait, name="panoform-parent", daemon=True).start()
