"""Work on the rows of large images in threads: NumPy and OpenImageIO let them run side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Rows that are computed together: few enough for a processor's cache, many enough for little overhead.
_ROWS = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of `function` for `items`, in their order. Raise what the first that fails raises."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def by_rows(function: Callable[[slice], object], height: int) -> None:
    """Call `function` for blocks of rows that together are all of `height`."""
    in_threads(function, [slice(top, min(height, top + _ROWS)) for top in range(0, height, _ROWS)])
