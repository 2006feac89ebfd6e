"""Merge and denoise the output pictures of a model, before they are decoded to maps.

`merge_scales`: a small input gives better global structure, a large one more detail; both are merged, following
Miangoleh et al. (arXiv 2105.14021).
`remove_token_noise`: a transformer predicts token by token, so that smooth areas show waves with the period of a token.
The guided filter of He et al. (ECCV 2010), guided by the picture itself, removes small differences within a token and
keeps large ones.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..io.panoramas import resize

#: Standard deviation of the Gaussian that separates the coarse scale from detail, as a share of the height: 11°.
_COARSE = 1 / 16
#: Side of a token in pixels: FLUX's patches of 2 × 2 latents, each 8 × 8 pixels.
_TOKEN_PX = 16


def merge_scales(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Merge two pictures of one panorama in [0, 1], (h, 2·h, C) and a larger (H, 2·H, C), into (H, 2·H, C) float32.

    The coarse scale of the result is the mean of both, its detail that of the larger one.
    """
    # At the smaller size, which takes a fifth to a third of the time: what is kept of it is smooth.
    difference = coarse - resize(fine, len(coarse))
    sigma = len(coarse) * _COARSE
    low = ndimage.gaussian_filter(difference, (sigma, sigma, 0), mode=("nearest", "wrap", "nearest"))  # pyright: ignore[reportArgumentType]
    return np.clip(fine + resize(low, len(fine)) / 2, 0, 1)


def remove_token_noise(picture: np.ndarray, amplitude: float) -> np.ndarray:
    """Remove differences of about `amplitude` and less within a token from a panorama's picture (H, W, C)."""
    # Exactly as wide as a token, which removes waves of that length completely.
    kernel = np.full(_TOKEN_PX + 1, 1 / _TOKEN_PX)
    kernel[[0, -1]] /= 2

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.convolve1d(ndimage.convolve1d(x, kernel, axis=0, mode="nearest"), kernel, axis=1, mode="wrap")

    exact = picture.astype(np.float64)
    level = mean(exact)
    variance = mean(exact**2) - level**2
    kept = variance / (variance + amplitude**2)
    return (mean(kept) * exact + mean(level * (1 - kept))).astype(np.float32)
