"""Find the sky, and windows that show it, in a distance map.

Sky is infinitely far in exact maps. A model's sky is finite: a shell at (almost) the largest distance, with a step to
everything in front of it. The far wall of a corridor is as far, but floor and walls lead up to it. A model that isn't
sure how far the sky is still knows that it is no surface: it gives it normals that face the camera everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from ...shared.imaging import sphere
from . import grid

#: Renderers write 1e10 where a ray hits nothing.
FAR = 1e9
#: A finite shell of sky lies beyond this share of the largest distance.
_SHELL = 0.8
#: Largest slope of a shell, d(log distance) per radian. A flat wall has it within 11° of its nearest point only.
_SLOPE = 0.2
#: Smallest relative step from a shell to what is in front of it, and the share of its outline that must have one.
_STEP, _STEP_SHARE = 0.15, 0.6
#: Relative distances within a shell.
_ALIKE = 0.1
#: How far from the sky's outline its distances may be blurred, as a share of the width.
_BLUR = 1 / 340
#: Smallest shell, as a share of all pixels.
_SMALLEST = 1e-4
#: A sky whose distance is unsure lies beyond this share of the largest distance and this multiple of the median, and
#: has normals of at least this cosine with the direction to the camera.
_UNSURE, _FARTHER, _FACING = 0.25, 4.0, 0.97


def infinite(distance: np.ndarray) -> np.ndarray:
    """Return where distances (H, W) mean that nothing was hit."""
    return ~(distance < FAR)


def find(distance: np.ndarray, candidates: np.ndarray | None = None, normal: np.ndarray | None = None) -> np.ndarray:
    """Return where a finite distance map (H, W) shows sky, (H, W) bool.

    `candidates` (H, W) bool: pixels that can be sky, from the semantic map; None: all. `normal`: the unit normals of
    the map beside it, (H, W, 3).
    """
    height, width = distance.shape
    sigma = max(1.0, width / 340)
    wrapped = np.pad(distance, ((0, 0), (width // 8, width // 8)), mode="wrap")
    wrapped = np.pad(wrapped, ((8, 8), (0, 0)), mode="edge")
    log = np.log(ndimage.median_filter(wrapped, 3))
    pixel_rad = np.pi / height
    slope = ndimage.gaussian_gradient_magnitude(log, sigma) / pixel_rad
    cut = slice(8, -8), slice(width // 8, -(width // 8) or None)
    log, slope = log[cut], slope[cut]
    largest = np.quantile(log, 0.9999)
    far = log > largest + np.log(_SHELL)
    if candidates is not None:
        far &= candidates
    core = far & (slope < _SLOPE)
    sky = np.zeros(distance.shape, bool)
    for shell in _regions(core, _SMALLEST):
        grown = _grow(shell, np.abs(log - np.median(log[shell])) < _ALIKE, width)
        if _stands_out(log, grown):
            sky |= grown
    if sky.any():
        # Sky in small windows lies at the same distance.
        level = np.median(log[sky])
        for region in _regions((np.abs(np.log(distance) - level) < _ALIKE) & ~sky, 0):
            if (candidates is None or candidates[region].mean() > 0.5) and _stands_out(log, region | sky, region):
                sky |= region
    elif normal is not None:
        sky = _unsure(np.log(distance), candidates, normal)
    return sky


def is_unsure(distance: np.ndarray, open_sky: np.ndarray) -> bool:
    """Return whether the distances of the sky (H, W) bool in a map (H, W) vary by more than those of a shell.

    Blur makes those of its outline, and of narrow panes, nearer than they were: its inside tells, if it has one.
    """
    inside = ~dilated(~open_sky, max(1, round(distance.shape[1] * _BLUR)))
    counted = inside if inside.any() else open_sky
    if not counted.any():
        return False
    low, high = np.quantile(distance[counted], (0.1, 0.9))
    return bool(high > low * (1 + 2 * _ALIKE))


def _unsure(log: np.ndarray, candidates: np.ndarray | None, normal: np.ndarray) -> np.ndarray:
    """Return the sky of a map of log distances (H, W) whose distance varies, (H, W) bool. See `find`."""
    facing = -grid.dot(normal, sphere.directions(*log.shape)) > _FACING
    far = log > max(np.quantile(log, 0.9999) + np.log(_UNSURE), np.median(log) + np.log(_FARTHER))
    sky = np.zeros(log.shape, bool)
    for region in _regions(facing & far, _SMALLEST):
        if (candidates is None or candidates[region].mean() > 0.5) and _stands_out(log, region):
            sky |= region
    return sky


def _stands_out(log: np.ndarray, region: np.ndarray, part: np.ndarray | None = None) -> bool:
    """Return whether most of what surrounds a region (or a part of it) is nearer by a step."""
    reach = max(1, round(log.shape[1] / 1024))
    part = region if part is None else part
    filled = np.flatnonzero(part.any(axis=1))
    rows = slice(max(0, filled[0] - reach - 2), filled[-1] + reach + 3)  # the others don't matter
    log, region, part = log[rows], region[rows], part[rows]
    inner = dilated(part, reach + 1)
    ring = dilated(inner, 1) & ~inner & ~region
    level = np.median(log[part])
    # Without a ring, everything is sky.
    return not ring.any() or bool((log[ring] < level - _STEP).mean() >= _STEP_SHARE)


def _regions(mask: np.ndarray, smallest: float) -> Iterator[np.ndarray]:
    """Yield the connected regions of a mask (H, W) that cover more than a share `smallest` of it."""
    labels = label(mask)
    sizes = np.bincount(labels.ravel())
    for number in np.flatnonzero(sizes > max(3, smallest * mask.size)):
        if number:
            yield labels == number


def label(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of a mask from 1, also across the left and right edge; 0 outside."""
    labels = np.zeros(mask.shape, np.int32)
    count = ndimage.label(mask, output=labels)
    assert isinstance(count, int)
    parent = np.arange(count + 1)
    touching = (labels[:, 0] > 0) & (labels[:, -1] > 0)
    for one, other in zip(labels[touching, 0], labels[touching, -1], strict=True):
        a, b = parent[one], parent[other]
        if a != b:
            parent[parent == max(a, b)] = min(a, b)
    return parent[labels]


def _grow(region: np.ndarray, allowed: np.ndarray, width: int) -> np.ndarray:
    """Grow a region into all pixels that are `allowed` and near enough for the filters to have cut them off."""
    pixels = max(4, round(width / 64))
    padded = [np.pad(mask, ((0, 0), (pixels, pixels)), mode="wrap") for mask in (region, allowed)]
    return ndimage.binary_dilation(padded[0], iterations=pixels, mask=padded[1])[:, pixels:-pixels]


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask (H, W) that has grown by a number of pixels on all sides, also across the left and right edge."""
    padded = np.pad(mask, ((0, 0), (pixels, pixels)), mode="wrap")
    return ndimage.binary_dilation(padded, np.ones((3, 3)), iterations=pixels)[:, pixels:-pixels]
