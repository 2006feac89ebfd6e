"""Shrink panoramas before they are sent: a model's input has far fewer pixels than an HDRI."""

from __future__ import annotations

import numpy as np

#: A panorama keeps at least this many times the height of the model's input, to preserve the quality of resampling.
MARGIN = 4


def block_side(rows: int, columns: int, height: float) -> int:
    """Return the side of the blocks of pixels that `shrink` averages, the largest whole number that divides both sides
    of the panorama; 1 where it stays unchanged."""
    most = int(rows // (MARGIN * height))
    return max((side for side in range(1, most + 1) if rows % side == 0 and columns % side == 0), default=1)


def block_means(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return (H, W, C) averaged over blocks of side × side pixels, float32; `side` divides H and W."""
    rows, columns, channels = pixels.shape
    blocks = pixels.reshape(rows // side, side, columns // side, side, channels)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def shrink(panorama: np.ndarray, height: int) -> np.ndarray:
    """Return (H, W, C) averaged over square blocks of pixels, at least `MARGIN * height` high, or unchanged.

    A panorama that isn't finite is returned as it is: the backend reports or repairs its pixels at their positions.
    """
    rows, columns, _ = panorama.shape
    side = block_side(rows, columns, height)
    if side == 1 or not np.isfinite(panorama).all():
        return panorama
    return block_means(panorama, side)
