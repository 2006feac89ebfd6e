"""Resize panoramas, whole or block by block while their rows are read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import sparse

from ...shared.imaging.shrink import MARGIN, block_means, block_side

#: Rows that are resampled together, which bounds the memory beside input and output.
_ROWS = 256


def resize(panorama: np.ndarray, height: int) -> np.ndarray:
    """Resample a panorama, (H, W, C) float32, to (height, 2·height, C).

    Each new pixel is a mean of the old ones under a tent as wide as two new pixels (two old ones when enlarging), so
    that a sun of one pixel keeps its light, without ringing or aliasing. Columns wrap around.
    """
    return panorama if panorama.shape[:2] == (height, 2 * height) else resample(panorama, height, 2 * height)


def resample(panorama: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample (H, W, C) float32 to (height, width, C), as `resize`."""
    rows, columns, channels = panorama.shape
    tall, wide = _tent(rows, height, wrap=False), _tent(columns, width, wrap=True)
    flat = panorama.reshape(rows, -1)
    result = np.empty((height, width, channels), np.float32)
    for top in range(0, height, _ROWS):
        block = (tall[top : top + _ROWS] @ flat).reshape(-1, columns, channels)
        result[top : top + _ROWS] = _widen(block, wide)
    return result


def _widen(block: np.ndarray, wide: sparse.csr_array) -> np.ndarray:
    """Resample the rows of (h, W, C)."""
    rows, columns, channels = block.shape
    turned = block.swapaxes(0, 1).reshape(columns, rows * channels)
    return (wide @ turned).reshape(-1, rows, channels).swapaxes(0, 1)


def _tent(old: int, new: int, *, wrap: bool) -> sparse.csr_array:
    """Return the (new, old) float32 matrix of tent weights; each row sums to 1."""
    reach = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centres - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)  # (new, taps)
    weights = np.maximum(1 - np.abs(taps - centres[:, None]) / reach, 0)
    if not wrap:
        weights *= (taps >= 0) & (taps < old)
    weights /= weights.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    matrix = sparse.coo_array((weights.ravel(), (row.ravel(), (taps.astype(int) % old).ravel())), shape=(new, old))
    return sparse.csr_array(matrix, dtype=np.float32)


class Reduction(Protocol):
    """Takes the rows of a panorama, from the top, and makes a smaller one of them."""

    def add(self, block: np.ndarray) -> None:
        """Take the next rows, (h, W, 3) float32."""
        ...

    def result(self) -> np.ndarray:
        """Return (H, 2·H, 3) float32, once all rows are added."""
        ...


def reduction(rows: int, columns: int, height: int | None) -> Reduction:
    """Return the reduction of a panorama of rows × columns for a model's input of `height`; None: keep its size.

    At least MARGIN times as many rows are kept, by means of blocks as `shrink` makes them where these fill the
    panorama, else under a tent. What isn't exactly 2:1 is resampled in any case.
    """
    exact = columns == 2 * rows
    side = block_side(rows, columns, height) if height and exact else 1
    if side > 1:
        return _Blocks(rows, columns, side)
    most = columns // 2 if height is None else min(columns // 2, MARGIN * height)
    if exact and 2 * most > rows:  # less than a half would hardly save memory
        return _Whole(rows, columns)
    return _Tent(rows, columns, most)


class _Whole:
    """Keeps all rows."""

    def __init__(self, rows: int, columns: int) -> None:
        self._pixels, self._top = np.empty((rows, columns, 3), np.float32), 0

    def add(self, block: np.ndarray) -> None:
        self._pixels[self._top : self._top + len(block)] = block
        self._top += len(block)

    def result(self) -> np.ndarray:
        return self._pixels


class _Blocks:
    """Averages square blocks of pixels."""

    def __init__(self, rows: int, columns: int, side: int) -> None:
        self._pixels, self._top = np.empty((rows // side, columns // side, 3), np.float32), 0
        self._side, self._left = side, np.empty((0, columns, 3), np.float32)

    def add(self, block: np.ndarray) -> None:
        block = np.concatenate([self._left, block]) if len(self._left) else block
        whole = len(block) // self._side * self._side
        self._left = block[whole:].copy()
        means = block_means(block[:whole], self._side)
        self._pixels[self._top : self._top + len(means)] = means
        self._top += len(means)

    def result(self) -> np.ndarray:
        return self._pixels


class _Tent:
    """Resamples as `resample` does, the columns once all rows are added."""

    def __init__(self, rows: int, columns: int, height: int) -> None:
        self._weights = sparse.csc_array(_tent(rows, height, wrap=False))
        self._width, self._wide = 2 * height, _tent(columns, 2 * height, wrap=True)
        self._tall, self._top = np.zeros((height, columns, 3), np.float32), 0

    def add(self, block: np.ndarray) -> None:
        weights = sparse.csr_array(self._weights[:, self._top : self._top + len(block)])
        touched = np.flatnonzero(np.diff(weights.indptr))
        first, last = touched[0], touched[-1] + 1
        added = weights[first:last] @ block.reshape(len(block), -1)
        self._tall[first:last] += added.reshape(last - first, *block.shape[1:])
        self._top += len(block)

    def result(self) -> np.ndarray:
        height = len(self._tall)
        result = np.empty((height, self._width, 3), np.float32)
        for top in range(0, height, _ROWS):
            result[top : top + _ROWS] = _widen(self._tall[top : top + _ROWS], self._wide)
        return result
