"""End this process with its parent, which holds the other end of the pipe that is this process's stdin.

The system closes that pipe when the parent ends, however that happens, also where nothing can be said any more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable


def when_gone(end: Callable[[], None], *, exit_after_s: float) -> None:
    """Call `end`, from a thread of its own, once the pipe is closed; end the process if it is still there then."""
    # Off fd 0, where a blocked read would hang libraries that look at stdin while they load (Windows), and where
    # children would inherit it.
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def wait() -> None:
        while os.read(pipe, 1024):
            pass
        end()
        time.sleep(exit_after_s)
        os._exit(1)

    threading.Thread(target=wait, name="panoform-parent", daemon=True).start()
