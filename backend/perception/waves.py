"""Small waves from token to token in what a model draws, evened out.

A transformer draws token by token, and what is smooth comes out with waves as long as a token. The guided filter of He
et al. (ECCV 2010), by the picture itself, takes away what differs little within a token and keeps what differs much.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

#: Side of a token in pixels: FLUX's patches of 2 × 2 latents, each 8 × 8 pixels.
_TOKEN = 16


def even_out(picture: np.ndarray, spread: float) -> np.ndarray:
    """The panorama's picture (H, W, C) without differences of about `spread` and less within a token."""
    # As wide as a token exactly, so that of a wave as long nothing is left.
    kernel = np.full(_TOKEN + 1, 1 / _TOKEN)
    kernel[[0, -1]] /= 2

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.convolve1d(ndimage.convolve1d(x, kernel, axis=0, mode="nearest"), kernel, axis=1, mode="wrap")

    exact = picture.astype(np.float64)
    level = mean(exact)
    variance = mean(exact**2) - level**2
    kept = variance / (variance + spread**2)
    return (mean(kept) * exact + mean(level * (1 - kept))).astype(np.float32)
