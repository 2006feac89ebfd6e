"""Exit when the parent process exits, detected by the end of the pipe on stdin.

The system closes that pipe however the parent ends, even if it crashes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable


def when_parent_exits(end: Callable[[], None], *, exit_after_s: float) -> None:
    """Call `end` from a separate thread once stdin is closed; exit `exit_after_s` later if still running."""
    # Moved from fd 0, where a blocked read would hang libraries that access stdin on loading (Windows), and which
    # child processes would inherit.
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
