"""Find the floor: the height of the camera above it gives the scale in metres."""

from __future__ import annotations

import numpy as np

from .planes import Planes

#: Smallest cosine between a floor's normal and the vertical axis.
_LEVEL = np.cos(np.radians(12))
#: Smallest share of the directions below the horizon that a floor covers.
_SMALLEST = 0.03
#: Relative width of a bin of heights.
_BIN = 0.02
#: A lower surface is the floor if it covers at least this share of what the largest one does (a table, a bed).
_LOWER = 0.35


def camera_height(found: Planes) -> float | None:
    """Return the height of the panorama's place over the floor, in the unit of the distances; None without a floor.

    The floor is the lowest of the large level surfaces below.
    """
    depth = -(found.rays * found.distance[..., None])[..., 2]
    level = found.solid & (found.normal[..., 2] > _LEVEL) & (depth > 0)
    if not level.any():
        return None
    weight = np.sqrt(np.maximum(1 - found.rays[..., 2] ** 2, 0))  # cos(latitude): the solid angle of a pixel
    heights, weights = depth[level], weight[level]
    bins = np.round(np.log(heights) / _BIN).astype(int)
    low = bins.min()
    histogram = np.bincount(bins - low, weights)
    # A peak may lie across the border of two bins.
    mass = np.convolve(histogram, np.ones(3))[1:-1]
    best = mass.max()
    if best < _SMALLEST * weight[found.rays[..., 2] < 0].sum():
        return None
    peak = int(np.flatnonzero(mass >= _LOWER * best).max())
    while peak > 0 and mass[peak - 1] > mass[peak]:  # up its slope
        peak -= 1
    inside = np.abs(bins - low - peak) <= 1
    order = np.argsort(heights[inside])
    cumulated = np.cumsum(weights[inside][order])
    return float(heights[inside][order][np.searchsorted(cumulated, cumulated[-1] / 2)])
