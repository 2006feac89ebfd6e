"""The scale of a distance map from true distances along some rays."""

from __future__ import annotations

import numpy as np

#: Smallest number of true distances that give a scale.
_MIN_KNOWN = 16


def true_scale(distance: np.ndarray, known: np.ndarray) -> float | None:
    """Return the metres per unit of `distance` (H, W): the median of the ratios of true distances to its own.

    `known`: (N, 4), unit directions in the panorama's frame (sphere.py) and the true distances along them in metres.
    Where `distance` is infinite, the map shows no surface. None: too few surfaces have a known distance.
    """
    height, width = distance.shape
    x, y, z = known[:, 0], known[:, 1], known[:, 2]
    row = ((0.5 - np.arcsin(np.clip(z, -1, 1)) / np.pi) * height).astype(int).clip(0, height - 1)
    column = ((0.5 - np.arctan2(y, x) / (2 * np.pi)) * width).astype(int) % width
    own = distance[row, column]
    usable = np.isfinite(own)
    if usable.sum() < _MIN_KNOWN:
        return None
    return float(np.median(known[usable, 3] / own[usable]))
