"""Clean planes of soft or noisy maps; exact ones stay as they are."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from ..io import parallel
from . import grid, planes, sky
from .planes import Planes

#: Noise below which maps count as exact.
EXACT = 5e-4
#: Distances in pixels of the neighbours in each pass of smoothing. (À trous, Holschneider et al., 1989: as wide as six
#: passes over the next ones.)
_SMOOTHING = 1, 2, 1
_WINDOW = [(rows, columns) for rows in range(-2, 3) for columns in range(-2, 3) if rows or columns]
_NEAR = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1) if rows or columns]
#: Share of the pixels around that support a smeared pixel at most, and a surface beside it at least.
_WEAK, _STRONG = 0.3, 0.4
#: Part of the way from the surface in front of a smeared pixel to that behind, up to which it shows the one in front.
#: Less than half: a pixel that shows both has half of the colour behind, and seen from beside, what sticks out in front
#: is worse than what is behind too wide.
_IN_FRONT = 0.43
#: Rows that tell how far the sky is.
_SKY_ROWS = 360
#: Pixels that a processor looks around at once.
_TOGETHER = 2**15
#: How far surfaces beside a smeared pixel are looked for, in pixels, in each pass: the next ones come first. A blur of
#: a pixel reaches five pixels where what is behind is a hundred times farther.
_REACHES = 3, 5, 5
#: Share of the sky's distance that is reached near a pixel which the sky is smeared into, and that the surface in front
#: of it has at most: beside far things, something else may be as far.
_SKY_SMEARED, _BEFORE_SKY = 0.4, 0.05


def regularise(found: Planes, sky_candidates: np.ndarray | None = None, sky_normal: np.ndarray | None = None) -> Planes:
    """Put smeared pixels of depth edges on one side, then smooth surfaces within the noise.

    `sky_candidates`, `sky_normal`: see `sky.find`.
    """
    if found.noise < EXACT:
        return found
    step = max(1, len(found.distance) // _SKY_ROWS)
    small = found.distance[::step, ::step]
    open_sky = sky.find(
        small, *(None if array is None else array[::step, ::step] for array in (sky_candidates, sky_normal))
    )
    sky_distance = float(np.median(small[open_sky])) if open_sky.any() else None
    for reach in _REACHES:
        found = sharpen_edges(found, reach, sky_distance)
    return smooth(found)


def support(found: Planes, tolerance: float) -> np.ndarray:
    """Return the share of the 24 pixels around each whose planes it lies on, to within `tolerance`, (H, W)."""

    def count(rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray]:
        total = np.zeros(distance.shape, np.int8)
        points = rays * distance[..., None]
        normals = grid.padded(normal * usable[..., None], 2)  # what isn't usable predicts nothing
        offsets = grid.padded(grid.dot(normal, points), 2)
        for side in _WINDOW:
            # offset / product is the plane's distance, as a multiple of the pixel's.
            product = grid.dot(grid.shifted(normals, 2, *side), points)
            difference = grid.shifted(offsets, 2, *side) - product
            product *= -tolerance
            total += np.abs(difference, out=difference) < product
        return (total,)

    usable = found.solid & found.trusted
    (total,) = grid.in_bands(count, 2, found.rays, found.distance, found.normal, usable)
    return np.where(found.trusted, total / len(_WINDOW), 0)


def sharpen_edges(found: Planes, reach: int, sky_distance: float | None) -> Planes:
    """Put pixels between two surfaces, which blur has smeared, on one of both.

    Such a pixel lies on the plane of hardly any pixel around it, but between planes that many lie on, up to `reach`
    pixels away. What is seen of the sky through a small gap is smeared throughout; its distance is known from
    elsewhere.
    """
    share = support(found, 3 * found.noise + 0.005).ravel()
    weak, strong = np.flatnonzero(found.solid.ravel() & (share < _WEAK)), share >= _STRONG
    parts = parallel.in_threads(
        lambda pixels: _beside(found, pixels, strong, reach), np.array_split(weak, len(weak) // _TOGETHER + 1)
    )
    ahead, behind, ahead_of, behind_of = (np.concatenate(each) for each in zip(*parts, strict=True))
    rays, distance = found.rays.reshape(-1, 3)[weak], found.distance.ravel()[weak]
    normals = found.normal.reshape(-1, 3)
    normal_behind = normals[behind_of]
    if sky_distance is not None:
        wrapped = np.pad(found.distance, ((0, 0), (2, 2)), mode="wrap")
        farthest = ndimage.maximum_filter(wrapped, 5, mode="nearest")[:, 2:-2].ravel()[weak]
        sky_behind = (behind_of < 0) & (farthest > _SKY_SMEARED * sky_distance) & (distance < sky_distance)
        sky_behind &= ahead < _BEFORE_SKY * sky_distance
        behind[sky_behind], normal_behind[sky_behind] = sky_distance, -rays[sky_behind]
    between = (ahead_of >= 0) & np.isfinite(behind)
    pixels = weak[between]
    nearer = (distance[between] - ahead[between]) <= _IN_FRONT * (behind[between] - ahead[between])
    new = dataclasses.replace(
        found, normal=found.normal.copy(), distance=found.distance.copy(), trusted=found.trusted.copy()
    )
    new.normal.reshape(-1, 3)[pixels] = np.where(nearer[:, None], normals[ahead_of[between]], normal_behind[between])
    new.distance.ravel()[pixels] = np.where(nearer, ahead[between], behind[between])
    new.trusted.ravel()[pixels] = True
    return new


def _beside(
    found: Planes, pixels: np.ndarray, strong: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return how far the surfaces in front of `pixels` (N flat indices) and behind them lie along their rays, (N,), 0
    and infinite without one; and the flat indices of the pixels that show these, −1 without one.

    `strong`: pixels whose planes may be taken, (H·W,) bool. `reach`: how many pixels away they are.
    """
    shape, rays = found.distance.shape, found.rays.reshape(-1, 3)[pixels]
    normals, offsets = found.normal.reshape(-1, 3), found.offset.ravel()
    distance = found.distance.ravel()[pixels]
    ahead, behind = np.zeros(len(pixels)), np.full(len(pixels), np.inf)
    ahead_of, behind_of = np.full(len(pixels), -1), np.full(len(pixels), -1)
    left = np.arange(len(pixels))
    # The surfaces nearest in the picture: planes that come from farther away may be tilted, or of something else.
    around = itertools.product(range(-reach, reach + 1), repeat=2)
    for rows, columns in sorted(around, key=lambda side: side[0] ** 2 + side[1] ** 2):
        index = grid.neighbour_index(pixels[left], shape, rows, columns)
        usable = np.flatnonzero(strong[index])
        at, index = left[usable], index[usable]
        predicted = planes.intersect(normals[index], offsets[index], rays[at])
        nearer = predicted <= distance[at]
        for distances, of, there in ((ahead, ahead_of, nearer), (behind, behind_of, ~nearer & np.isfinite(predicted))):
            first = there & (of[at] < 0)
            distances[at[first]], of[at[first]] = predicted[first], index[first]
        left = left[(ahead_of[left] < 0) | (behind_of[left] < 0)]
    return ahead, behind, ahead_of, behind_of


def smooth(found: Planes) -> Planes:
    """Average planes with those around them, as far as they agree within the noise."""
    scale = 3 * found.noise

    def average(
        rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        for step in _SMOOTHING:
            points, least = rays * distance[..., None], distance * np.float32(-planes.MIN_COSINE / 4)
            normals = grid.padded(normal * usable[..., None], step)  # what isn't usable is like nothing
            offsets = grid.padded(grid.dot(normal, points), step)
            total, reach, sums = np.ones_like(distance), np.ones_like(distance), normal.copy("K")
            for rows, columns in _NEAR:
                side = step * rows, step * columns
                there = grid.shifted(normals, step, *side)
                ratio = planes.ratios(there, grid.shifted(offsets, step, *side), points, least)
                weight = ratio - 1
                weight /= scale
                weight *= weight
                np.exp(-np.minimum(weight, 50, out=weight), out=weight)
                alike = grid.dot(there, normal)
                alike -= 0.9
                alike /= 0.1
                weight *= np.clip(alike, 0, 1, out=alike)
                total += weight
                ratio *= weight
                reach += ratio
                for axis in range(3):
                    sums[..., axis] += np.multiply(there[..., axis], weight, out=alike)
            distance = distance * (reach / total)
            normal = sums / np.sqrt(grid.dot(sums, sums))[..., None]
        return distance, normal

    usable = found.solid & found.trusted
    distance, normal = grid.in_bands(average, sum(_SMOOTHING), found.rays, found.distance, found.normal, usable)
    return dataclasses.replace(found, distance=distance, normal=normal)
