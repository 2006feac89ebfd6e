"""Planes → two layers: what the panorama shows, and what continues behind the edges of things in front.

Seen from beside the place of the panorama, a gap opens behind each edge. The surface behind is continued into that gap,
flat, as far as a viewer who moves by `reach` can look behind the edge.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..io import parallel
from . import grid, planes
from .planes import Planes

#: The four neighbours of a pixel: rows, columns.
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))
#: Planes that cross between two pixels may be this many tolerances apart at their border.
_CROSSING = 5
#: Largest parallax that is filled.
_MOST_PARALLAX_RAD = 0.7
#: A continued plane is followed up to this multiple of the distance where it was seen.
_FARTHER = 1.5
#: Vertical part of rays from which on ground is too far away to be told from the sky.
_HORIZON = -0.008
#: Vertical part of the normal from which on a surface is level, and ends at the horizon.
_LEVEL = 0.7
#: What stands up ends at this share of its distance to the sky.
_SKY_FIRST = 0.85
#: Relative distance from which two hidden surfaces are kept, one behind the other.
_APART = 0.05
#: A surface grows by this share of its own size at most.
_GROWTH = 0.5
#: Passes that average the planes of a surface, relative distances and cosines up to which they are of one surface.
_CONTINUING, _ALIKE, _TURNED = 3, 0.03, 0.8


@dataclass(frozen=True)
class Layer:
    """A surface for some of the pixels."""

    #: Plane of each pixel: unit normal (H, W, 3), offset (H, W), distance (H, W). See `planes`.
    normal: np.ndarray
    offset: np.ndarray
    distance: np.ndarray
    #: Whether the layer has a surface here, (H, W) bool.
    solid: np.ndarray
    #: Flat index of the pixel of the panorama that the surface continues; that of the pixel itself where it is seen.
    source: np.ndarray


def visible(found: Planes) -> Layer:
    """Return the layer of what the panorama shows."""
    index = np.arange(found.distance.size).reshape(found.distance.shape)
    return Layer(found.normal, found.offset, found.distance, found.solid, index)


def agree(one: Layer, other: Layer, side: tuple[int, int], rays: np.ndarray, tolerance: float) -> np.ndarray:
    """Return whether the surface of each pixel in `one` goes on in its neighbour in `other`, (H, W) bool.

    It does where both planes meet at the border between the pixels, or cross near it, between the pixels' centres.
    Beyond a pole there is no neighbour.
    """
    shape = one.distance.shape
    both = one.solid & grid.neighbour(other.solid, *side)
    if side[0]:
        both[-1 if side[0] > 0 else 0] = False
    pixels = np.flatnonzero(both)
    there = grid.neighbour_index(pixels, shape, *side)
    flat = rays.reshape(-1, 3)
    ray, ray_there = flat[pixels], flat[there]
    border = ray + ray_there  # planes' distances along it have a common factor
    normal, offset, distance = (
        one.normal.reshape(-1, 3)[pixels],
        one.offset.ravel()[pixels],
        one.distance.ravel()[pixels],
    )
    normal_there, offset_there = other.normal.reshape(-1, 3)[there], other.offset.ravel()[there]
    here, beyond = planes.intersect(normal, offset, border), planes.intersect(normal_there, offset_there, border)
    finite = np.isfinite(here) & np.isfinite(beyond)
    with np.errstate(invalid="ignore"):
        gap = np.abs(here - beyond) / np.minimum(here, beyond)
    near = np.flatnonzero(finite & (gap <= _CROSSING * tolerance))
    linked = gap[near] <= tolerance
    # Only where the planes are not close at the border.
    rest = near[~linked]
    before = planes.intersect(normal_there[rest], offset_there[rest], ray[rest]) - distance[rest]
    after = other.distance.ravel()[there[rest]] - planes.intersect(normal[rest], offset[rest], ray_there[rest])
    with np.errstate(invalid="ignore"):
        linked[~linked] = before * after <= 0
    result = np.zeros(one.distance.size, bool)
    result[pixels[near[linked]]] = True
    return result.reshape(shape)


class Links(NamedTuple):
    """Whether each pixel of one layer goes on in its neighbour to the right, and below, in another, (H, W) bool."""

    right: np.ndarray
    below: np.ndarray


def link(one: Layer, other: Layer, rays: np.ndarray, tolerance: float) -> Links:
    """Return the links between two layers."""
    return Links(agree(one, other, (0, 1), rays, tolerance), agree(one, other, (1, 0), rays, tolerance))


def continuing(front: Layer, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return normals (H, W, 3) and offsets (H, W) of the planes that continue each pixel's surface.

    They are averaged over the surface around, so that bumps and noise don't tilt what is far from the pixel.
    """

    def average(
        rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, solid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(_CONTINUING):
            points, least = rays * distance[..., None], distance * np.float32(-planes.MIN_COSINE / 4)
            normals = grid.padded(normal * solid[..., None], 2)  # the sky is like nothing
            offsets = grid.padded(grid.dot(normal, points), 2)
            sums, reach, total = normal.copy("K"), np.ones_like(distance), np.ones_like(distance)
            for side in ((0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                there = grid.shifted(normals, 2, *side)
                ratio = planes.ratios(there, grid.shifted(offsets, 2, *side), points, least)
                near = np.abs(ratio - 1) < _ALIKE
                near &= grid.dot(there, normal) > _TURNED
                weight = near.astype(np.float32)
                total += weight
                ratio *= weight
                reach += ratio
                for axis in range(3):
                    sums[..., axis] += np.multiply(there[..., axis], weight, out=ratio)
            normal = sums / np.sqrt(grid.dot(sums, sums))[..., None]
            distance = distance * (reach / total)
        return distance, normal

    distance, normal = grid.in_bands(average, 2 * _CONTINUING, rays, front.distance, front.normal, front.solid)
    return normal, distance * grid.dot(normal, rays)


def _extent(links: Links) -> np.ndarray:
    """Return the size in pixels of the connected surface that each pixel belongs to, (H·W,)."""
    label = grid.connected(links.right, links.below)
    return np.sqrt(np.bincount(label))[label]


def hidden(front: Layer, links: Links, rays: np.ndarray, reach: float, clearance: float) -> list[Layer]:
    """Return the layers that continue surfaces behind the edges of `front`, for a viewer who moves by `reach`.

    `links`: those of `front`. `reach` has the unit of the distances. `clearance`: smallest relative distance between
    what is hidden and what is in front of it. In the first layer the nearest of the surfaces
    that could continue does, by half its own size at most: things end somewhere. In the second the farthest does, as
    far as can be seen.
    """
    width = front.distance.shape[1]
    seen = front.distance.ravel()
    edges = []
    for linked, side in ((links.right, (0, 1)), (links.below, (1, 0))):
        apart = ~linked & front.solid & grid.neighbour(front.solid, *side)
        if side[0]:
            apart[-1] = False
        one = np.flatnonzero(apart)
        other = grid.neighbour_index(one, front.distance.shape, *side)
        behind = seen[one] > seen[other]
        here, target = np.where(behind, one, other), np.where(behind, other, one)
        parallax = reach * (1 / seen[target] - 1 / seen[here])
        edges.append((target, here, np.minimum(parallax, _MOST_PARALLAX_RAD) * width / (2 * np.pi) + 1))
    target, origin, reached_px = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    normal, offset = continuing(front, rays)
    continued = Layer(normal, offset, front.distance, front.solid, front.source)
    short = np.minimum(reached_px, _extent(links)[origin] * _GROWTH)

    def grow(farthest: bool) -> tuple[Layer, np.ndarray]:
        wave = target, origin, reached_px if farthest else short
        return _grow(front, continued, rays, wave, clearance, farthest)

    (near, near_length), (far, length) = parallel.in_threads(grow, (False, True))
    # Sky goes on behind edges too: what stands up ends where the sky is nearer, and ground where sky was seen.
    sky_length, sky_above = _sky_length(front, rays, reach)

    def below_sky(layer: Layer, length: np.ndarray) -> Layer:
        level = (layer.normal[..., 2] > _LEVEL) & (rays[..., 2] < _HORIZON) & sky_above
        keep = level | (length <= _SKY_FIRST * sky_length)
        return dataclasses.replace(layer, solid=layer.solid & keep)

    near, far = below_sky(near, near_length), below_sky(far, length)
    covered = near.solid & (far.distance < near.distance * (1 + _APART))
    return [near, dataclasses.replace(far, solid=far.solid & ~covered)]


def _grow(
    front: Layer,
    continued: Layer,
    rays: np.ndarray,
    wave: tuple[np.ndarray, np.ndarray, np.ndarray],
    clearance: float,
    farthest: bool,
) -> tuple[Layer, np.ndarray]:
    """Grow surfaces behind `front`; also return how many pixels from the edge each pixel lies, (H, W).

    `wave`: pixels to grow into, the pixel that is continued, and how many pixels it may still grow. Where the plane of
    a surface doesn't pass behind `front`, the farthest goes on at its own distance, the nearest ends.
    """
    shape = front.distance.shape
    count = front.distance.size
    flat_rays = rays.reshape(-1, 3)
    seen, solid = front.distance.ravel(), front.solid.ravel()
    normals, offsets = continued.normal.reshape(-1, 3), continued.offset.ravel()
    # Columns get narrower towards the poles.
    narrow = np.maximum(np.linalg.norm(flat_rays[:, :2], axis=-1), 0.05)
    distance = np.full(count, 0 if farthest else np.inf, np.float32)
    source, budget, on_plane = np.full(count, -1), np.zeros(count, np.float32), np.ones(count, bool)
    length = np.full(count, np.inf, np.float32)
    reachable = np.zeros(count, bool)
    target, origin, left = wave
    walked = np.zeros(len(target))
    while len(target):
        # Most lead back to where the same surface has come from.
        useful = solid[target] & (left > 0) & (source[target] != origin)
        if farthest:
            useful &= seen[origin] > distance[target] * (1 + 1e-3)
        target, origin, left, walked = target[useful], origin[useful], left[useful], walked[useful]
        reached = planes.intersect(normals[origin], offsets[origin], flat_rays[target])
        clear = seen[target] * (1 + clearance)
        possible = (reached > clear) & (reached < _FARTHER * seen[origin])
        plane = possible
        if farthest:
            # Ground ends at its horizon.
            reached = np.where(possible | (normals[origin, 2] > _LEVEL), reached, seen[origin])
            possible = (reached > clear) & (reached < _FARTHER * seen[origin])
            better, rank = possible, seen[origin]
        else:
            better, rank = possible & (reached < distance[target] * (1 - 1e-3)), -reached
        order = np.flatnonzero(better)[np.argsort(rank[better], kind="stable")]  # the best is written last
        target, origin, left, reached, walked = target[order], origin[order], left[order], reached[order], walked[order]
        distance[target] = seen[origin] if farthest else reached
        source[target], budget[target], on_plane[target], length[target] = origin, left, plane[order], walked
        reachable[target] = True
        grown = np.flatnonzero(reachable)
        reachable[grown] = False
        waves = []
        for side in _SIDES:
            step = narrow[grown] if side[1] else np.ones(len(grown))
            go = budget[grown] > step
            pixels = grown[go]
            there = grid.neighbour_index(pixels, shape, *side)
            waves.append((there, source[pixels], budget[pixels] - step[go], length[pixels] + step[go]))
        target, origin, left, walked = (np.concatenate(parts) for parts in zip(*waves, strict=True))
    has = source >= 0
    pick = np.where(has, source, 0)
    normal = np.where(on_plane[:, None], normals[pick], -flat_rays)
    offset = np.where(on_plane, offsets[pick], -seen[pick])
    distance = np.where(has, planes.intersect(normal, offset, flat_rays), 1)
    layer = Layer(
        normal.reshape(*shape, 3), offset.reshape(shape), distance.reshape(shape), has.reshape(shape),
        pick.reshape(shape),
    )  # fmt: skip
    return layer, length.reshape(shape)


def _sky_length(front: Layer, rays: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pixels each pixel of a surface lies from the sky beside it, (H, W), infinite where it can't be
    seen from beside; and whether the nearest sky lies higher, (H, W) bool."""
    height, width = front.distance.shape
    solid = np.pad(front.solid, ((0, 0), (width // 4, width // 4)), mode="wrap")
    if solid.all():
        return np.full(front.distance.shape, np.inf), np.ones(front.distance.shape, bool)
    narrow = np.maximum(np.linalg.norm(rays[:, width // 2, :2], axis=-1), 0.05)
    nearest = np.zeros((2, *solid.shape), np.int32)
    ndimage.distance_transform_edt(solid, return_distances=False, return_indices=True, indices=nearest)
    rows = np.arange(height)[:, None] - nearest[0]
    columns = (np.arange(solid.shape[1]) - nearest[1]) * narrow[:, None]
    length = np.hypot(rows, columns)[:, width // 4 : -(width // 4)]
    seen = np.minimum(reach / front.distance, _MOST_PARALLAX_RAD) * width / (2 * np.pi) + 1
    above = rows[:, width // 4 : -(width // 4)] > 0
    return np.where(length <= seen, length, np.inf), above
