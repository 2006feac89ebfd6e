"""Clean planes of soft or noisy maps; exact ones stay as they are."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from . import flatten, grid, planes, sky
from .planes import Planes

#: Noise below which maps count as exact.
EXACT = 5e-4
#: Passes of smoothing.
_SMOOTHING = 6
_WINDOW = [(rows, columns) for rows in range(-2, 3) for columns in range(-2, 3) if rows or columns]
_NEAR = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1) if rows or columns]
#: Share of the pixels around that support a smeared pixel at most, and a surface beside it at least.
_WEAK, _STRONG = 0.3, 0.4
#: How far surfaces beside a smeared pixel are looked for, in pixels, in each pass: the next ones come first. A blur of
#: a pixel reaches five pixels where what is behind is a hundred times farther.
_REACHES = 3, 5, 5
#: Share of the sky's distance that is reached near a pixel which the sky is smeared into, and that the surface in front
#: of it has at most: beside far things, something else may be as far.
_SKY_SMEARED, _BEFORE_SKY = 0.4, 0.05


def regularise(found: Planes, sky_candidates: np.ndarray | None = None, sky_normal: np.ndarray | None = None) -> Planes:
    """Put smeared pixels of depth edges on one side, then smooth surfaces, and flatten flat ones, within the noise.

    `sky_candidates`, `sky_normal`: see `sky.find`.
    """
    if found.noise < EXACT:
        return found
    open_sky = sky.find(found.distance, sky_candidates, sky_normal)
    sky_distance = float(np.median(found.distance[open_sky])) if open_sky.any() else None
    for reach in _REACHES:
        found = sharpen_edges(found, reach, sky_distance)
    return flatten.flatten(smooth(found))


def support(found: Planes, tolerance: float) -> np.ndarray:
    """Return the share of the 24 pixels around each whose planes it lies on, to within `tolerance`, (H, W)."""

    def count(
        rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, offset: np.ndarray, usable: np.ndarray
    ) -> tuple[np.ndarray]:
        total = np.zeros(distance.shape, np.int8)
        normals, offsets, allowed = (grid.padded(array, 2) for array in (normal, offset, usable))
        for side in _WINDOW:
            predicted = planes.intersect(grid.shifted(normals, 2, *side), grid.shifted(offsets, 2, *side), rays)
            total += (np.abs(predicted / distance - 1) < tolerance) & grid.shifted(allowed, 2, *side)
        return (total,)

    usable = found.solid & found.trusted
    (total,) = grid.in_bands(count, 2, found.rays, found.distance, found.normal, found.offset, usable)
    return np.where(found.trusted, total / len(_WINDOW), 0)


def sharpen_edges(found: Planes, reach: int, sky_distance: float | None) -> Planes:
    """Put pixels between two surfaces, which blur has smeared, on the nearer one of both.

    Such a pixel lies on the plane of hardly any pixel around it, but between planes that many lie on, up to `reach`
    pixels away. What is seen of the sky through a small gap is smeared throughout; its distance is known from
    elsewhere.
    """
    share = support(found, 3 * found.noise + 0.005).ravel()
    weak = np.flatnonzero(found.solid.ravel() & (share < _WEAK))
    shape, rays = found.distance.shape, found.rays.reshape(-1, 3)[weak]
    normals, offsets = found.normal.reshape(-1, 3), found.offset.ravel()
    distance = found.distance.ravel()[weak]
    ahead, behind = np.zeros(len(weak)), np.full(len(weak), np.inf)
    ahead_of, behind_of = np.full(len(weak), -1), np.full(len(weak), -1)
    left = np.arange(len(weak))
    # The surfaces nearest in the picture: planes that come from farther away may be tilted, or of something else.
    around = itertools.product(range(-reach, reach + 1), repeat=2)
    for rows, columns in sorted(around, key=lambda side: side[0] ** 2 + side[1] ** 2):
        index = grid.neighbour_index(weak[left], shape, rows, columns)
        predicted = planes.intersect(normals[index], offsets[index], rays[left])
        strong = (share[index] >= _STRONG) & np.isfinite(predicted)
        for distances, of, there in (
            (ahead, ahead_of, predicted <= distance[left]),
            (behind, behind_of, predicted > distance[left]),
        ):
            first = strong & there & (of[left] < 0)
            distances[left[first]], of[left[first]] = predicted[first], index[first]
        left = left[(ahead_of[left] < 0) | (behind_of[left] < 0)]
    normal_behind = normals[behind_of]
    if sky_distance is not None:
        wrapped = np.pad(found.distance, ((0, 0), (2, 2)), mode="wrap")
        farthest = ndimage.maximum_filter(wrapped, 5, mode="nearest")[:, 2:-2].ravel()[weak]
        sky_behind = (behind_of < 0) & (farthest > _SKY_SMEARED * sky_distance) & (distance < sky_distance)
        sky_behind &= ahead < _BEFORE_SKY * sky_distance
        behind[sky_behind], normal_behind[sky_behind] = sky_distance, -rays[sky_behind]
    between = (ahead_of >= 0) & np.isfinite(behind)
    pixels = weak[between]
    nearer = (distance - ahead <= behind - distance)[between]
    new = dataclasses.replace(
        found, normal=found.normal.copy(), distance=found.distance.copy(), trusted=found.trusted.copy()
    )
    new.normal.reshape(-1, 3)[pixels] = np.where(nearer[:, None], normals[ahead_of[between]], normal_behind[between])
    new.distance.ravel()[pixels] = np.where(nearer, ahead[between], behind[between])
    new.trusted.ravel()[pixels] = True
    return new


def smooth(found: Planes) -> Planes:
    """Average planes with those around them, as far as they agree within the noise."""
    scale = 3 * found.noise

    def average(
        rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        allowed = grid.padded(usable, 1)
        for _ in range(_SMOOTHING):
            before, towards = distance, normal
            offset = distance * grid.dot(normal, rays)
            total, distance, normal = np.ones_like(before), before.copy(), towards.copy("K")
            normals, offsets = grid.padded(towards, 1), grid.padded(offset, 1)
            for side in _NEAR:
                there = grid.shifted(normals, 1, *side)
                predicted = planes.intersect(there, grid.shifted(offsets, 1, *side), rays)
                agreeing = grid.shifted(allowed, 1, *side) & np.isfinite(predicted)
                predicted = np.where(agreeing, predicted, 0)
                gap = (predicted / before - 1) / scale
                alike = np.clip((grid.dot(there, towards) - 0.9) / 0.1, 0, 1)
                weight = np.exp(-np.minimum(gap**2, 50)) * alike * agreeing
                total += weight
                distance += weight * predicted
                normal += weight[..., None] * there
            distance = distance / total
            normal /= np.sqrt(grid.dot(normal, normal))[..., None]
        return distance, normal

    usable = found.solid & found.trusted
    distance, normal = grid.in_bands(average, _SMOOTHING, found.rays, found.distance, found.normal, usable)
    return dataclasses.replace(found, distance=distance, normal=normal)
