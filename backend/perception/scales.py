"""A panorama that a model saw at two sizes: what is wide as the mean of both tells, detail as the larger one.

A model that sees a small picture judges the whole better, one that sees a large picture draws what is in it; merging
both is Miangoleh et al.'s idea (arXiv 2105.14021).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..io.panoramas import resize

#: Deviation of the Gaussian beyond which things are wide, as a share of the height: 11°.
_WIDE = 1 / 16


def merge(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Pictures of one panorama in [0, 1], (h, 2·h, C) and a larger (H, 2·H, C), → (H, 2·H, C) float32."""
    apart = resize(coarse, len(fine)) - fine
    sigma = len(fine) * _WIDE
    wide = ndimage.gaussian_filter(apart, (sigma, sigma, 0), mode=("nearest", "wrap", "nearest"))  # pyright: ignore[reportArgumentType]
    return np.clip(fine + wide / 2, 0, 1)
