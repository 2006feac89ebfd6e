"""Shrink panoramas before they are sent: a model's input has far fewer pixels than an HDRI."""

from __future__ import annotations

import numpy as np

#: A panorama keeps at least this many times the height of the model's input, to preserve the quality of resampling.
MARGIN = 4


def shrink(panorama: np.ndarray, height: int) -> np.ndarray:
    """Return (H, W, C) averaged over square blocks of pixels, at least `MARGIN * height` high, or unchanged.

    The block's side is the largest whole number that divides both sides of the panorama. A panorama that isn't finite
    is returned as it is: the backend reports or repairs its pixels at their positions.
    """
    rows, columns, channels = panorama.shape
    most = rows // (MARGIN * height)
    side = max((side for side in range(1, most + 1) if rows % side == 0 and columns % side == 0), default=1)
    if side == 1 or not np.isfinite(panorama).all():
        return panorama
    blocks = panorama.reshape(rows // side, side, columns // side, side, channels)
    return blocks.mean(axis=(1, 3), dtype=np.float32)
