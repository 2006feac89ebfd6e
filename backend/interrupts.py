"""Ctrl+C: the first stops a command in order, a second at once; and at once before a command begins, and when it ended.

What a command that was ended at once leaves in its folder, the next one removes (shared/atomic_write.py).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..shared.protocol.errors import PanoformError

INTERRUPTED = 130
_STOPPED = b"panoform: stopped\n"


def stop_at_once() -> None:
    """From now on end the process at Ctrl+C, with INTERRUPTED and a line instead of a traceback."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # ignored, as by nohup: it stays so
        signal.signal(signal.SIGINT, _end)


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl+C in the block, and end the process at the second.

    Also instead of an error that the first one became in a library. Outside the main thread nothing changes.
    """
    former = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or former in (None, signal.SIG_IGN):  # None: not one of Python
        yield
        return
    is_interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        signal.signal(signal.SIGINT, _end)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except PanoformError:  # says what became of the files
        raise
    except Exception as error:
        if is_interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, former)


def _end(_number: int, _frame: FrameType | None) -> None:
    os.write(2, _STOPPED)
    os._exit(INTERRUPTED)
