"""Give memory that jobs have freed back to the system, as far as glibc can be told to; other systems do it themselves.

glibc gives each thread a heap of its own, and `malloc_trim` shortens that of the main thread only: what a job has freed
at the end of the worker's stays there, after some jobs several megabytes more than after others. With one heap for all
threads nothing stays.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

#: glibc's number of the option "most heaps".
_ARENA_MAX = -8


def _function(name: str) -> Any:
    """Return a function of glibc; None elsewhere (musl has neither)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


_mallopt, _malloc_trim = _function("mallopt"), _function("malloc_trim")


def share() -> None:
    """Have all threads use one heap. Call it before there are threads."""
    if _mallopt is not None:
        _mallopt(_ARENA_MAX, 1)


def release() -> None:
    """Give back what has been freed: milliseconds."""
    if _malloc_trim is not None:
        _malloc_trim(0)
