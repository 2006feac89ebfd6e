"""Outline of the sky in a model's maps → that which the panorama shows.

A model that isn't sure how far the sky is isn't sure where it ends either: its outline lies beside the true one. The
panorama shows that one, where the sky's colour differs from that of what is in front of it. A model that is sure knows
it better than colours, which a bright wall beside a window, or a far house, may share with the sky.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ...shared.imaging.colour import LUMINANCE
from ..io import parallel
from . import planes, sky
from .planes import Planes

#: How far the outline lies beside the true one at most, as a share of the panorama's width, and how often it is moved.
_BESIDE, _PASSES = 1 / 85, 5
#: Added to luminances before their logarithm, and to the variances of colours, which are never quite even.
_DARK, _EVEN = 0.02, 0.02
#: Difference of −2 · the log likelihoods of both sides, from which on a colour tells which one a pixel belongs to.
_CERTAIN = 2.0
#: Largest speck, of sky or of anything else, that goes to what is around it, as a share of all pixels.
_SPECK = 1e-4
#: Surfaces that are this many times farther than what is beside them have been smeared into the sky.
_SMEARED = 1.1


def refine(found: Planes, open_sky: np.ndarray, picture: np.ndarray, distance: np.ndarray) -> tuple[Planes, np.ndarray]:
    """Return planes and sky (H, W) bool with the outline of the sky that the panorama (H, W, 3), sRGB, shows.

    Surfaces end there, without leading up to the sky. `distance`: the map itself, (H, W), finite. Where all of its sky
    is as far, the outline stays as it is.
    """
    if not sky.is_unsure(distance, open_sky):
        return found, open_sky
    reach = max(1, round(open_sky.shape[1] * _BESIDE))
    refined = outlined(open_sky, picture, reach)
    return _pulled_back(found, open_sky, refined, reach), refined


def outlined(open_sky: np.ndarray, picture: np.ndarray, reach: int) -> np.ndarray:
    """Return the sky (H, W) bool with the outline that the panorama (H, W, 3), sRGB, shows.

    Pixels up to `reach` pixels from the outline go to the side whose colours nearby they have; this is repeated. No sky
    is added below the horizon.
    """
    colour = _colour(picture)
    above = np.arange(len(open_sky))[:, None] < len(open_sky) // 2
    for _ in range(_PASSES):
        inside, outside = ~sky.dilated(~open_sky, reach), ~sky.dilated(open_sky, reach)
        if not inside.any() or not outside.any():
            break
        between = ~inside & ~outside
        rows = np.flatnonzero(between.any(axis=1))
        some = slice(max(0, rows[0] - 3 * reach), rows[-1] + 1 + 3 * reach)
        misfits = parallel.in_threads(lambda side: _misfit(colour[some], side[some], 3 * reach), (outside, inside))  # noqa: B023
        preference = misfits[0] - misfits[1]
        certain = between[some] & (np.abs(preference) > _CERTAIN)  # not where it is NaN
        moved = np.where(certain, (preference > 0) & (above[some] | open_sky[some]), open_sky[some])
        open_sky = np.concatenate([open_sky[: some.start], moved, open_sky[some.stop :]])
    smallest = _SPECK * open_sky.size
    open_sky = open_sky & ~_specks(open_sky, smallest)
    return open_sky | _specks(~open_sky, smallest)


def _pulled_back(found: Planes, before: np.ndarray, after: np.ndarray, reach: int) -> Planes:
    """Return planes whose surfaces end at the outline of the sky, without leading up to it.

    `before`, `after`: the sky in the maps, and its refined outline, (H, W) bool. Up to `reach` pixels from both, what
    is farther than the surface beside it goes on as that does.
    """
    near = ~after & sky.dilated(before | after, reach)
    sure = ~after & ~near
    if not near.any() or not sure.any():
        return found
    pixels = np.flatnonzero(near)
    origin = _nearest(sure).ravel()[pixels]
    rays, normals, distances = found.rays.reshape(-1, 3), found.normal.reshape(-1, 3), found.distance.ravel()
    reached = planes.intersect(normals[origin], found.offset.ravel()[origin], rays[pixels])
    reached = np.clip(reached, distances[origin] / _SMEARED, distances[origin] * _SMEARED)
    smeared = distances[pixels] > reached * _SMEARED
    pixels, origin = pixels[smeared], origin[smeared]
    distance, normal = found.distance.copy(), found.normal.copy()
    distance.ravel()[pixels] = reached[smeared]
    normal.reshape(-1, 3)[pixels] = normals[origin]
    return dataclasses.replace(found, distance=distance, normal=normal)


def _colour(picture: np.ndarray) -> np.ndarray:
    """Return the log luminance and the blueness of a picture (H, W, 3), (H, W, 2)."""
    return np.stack([np.log(picture @ LUMINANCE + _DARK), picture[..., 2] - picture[..., 0]], axis=-1).astype(
        np.float32
    )


def _misfit(colour: np.ndarray, where: np.ndarray, reach: int) -> np.ndarray:
    """Return −2 · the log likelihood, up to a constant, of each colour (H, W, C), (H, W), among those of the pixels
    `where` (H, W) bool, at most `reach` pixels away; NaN where there are none.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        for axis, mode in ((0, "nearest"), (1, "wrap")):
            values = ndimage.uniform_filter1d(values, 2 * reach + 1, axis=axis, mode=mode)
        return values

    share = mean(where.astype(np.float32))[..., None]
    share[share < 1e-9] = np.nan
    known = colour * where[..., None]
    expected = mean(known) / share
    variance = np.maximum(mean(known * colour) / share - expected**2, 0) + _EVEN
    return ((colour - expected) ** 2 / variance + np.log(variance)).sum(-1)


def _specks(mask: np.ndarray, largest: float) -> np.ndarray:
    """Return the connected regions of a mask (H, W) that have at most `largest` pixels."""
    labels = sky.label(mask)
    return mask & (np.bincount(labels.ravel()) <= largest)[labels]


def _nearest(mask: np.ndarray) -> np.ndarray:
    """Return the flat index of the pixel in a mask (H, W) that is nearest to each, (H, W)."""
    width = mask.shape[1]
    side = width // 4
    padded = np.pad(mask, ((0, 0), (side, side)), mode="wrap")
    nearest = np.zeros((2, *padded.shape), np.int32)
    ndimage.distance_transform_edt(~padded, return_distances=False, return_indices=True, indices=nearest)
    rows, columns = nearest[:, :, side : side + width]
    return rows * width + (columns - side) % width
