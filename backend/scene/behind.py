"""Things → the surfaces behind them: floor, walls and what else surrounds a thing, continued under the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from . import grid, layers, planes
from .layers import Layer

#: Width of the ring around a thing whose planes are continued, as a share of the panorama's width.
_RING = 1 / 50
#: Planes that a ring is tried with, and how many of them continue at most.
_TRIED, _MOST = 64, 6
#: Smallest share of a ring that a plane covers, and cosine up to which a normal is that of a plane.
_SMALLEST, _TURNED = 0.04, 0.9
#: A plane that passes in front of more than this share of the ring is that of something local, not of a wall.
_PASSES = 0.1
#: How far what is behind a thing may seem to lie in front of it, relative, and where it is put then.
_SLACK, _BEHIND = 0.04, 2e-3
#: A plane is continued up to this multiple of the largest distance in its ring.
_FARTHEST = 1.5
#: Pixels around a thing that show its colour, too.
_MIXED = 2
#: Vertical part of the normal from which on a surface is level, and of rays up to which it can be seen.
_LEVEL, _HORIZON = 0.7, -0.008


@dataclass(frozen=True)
class _Around:
    """What the panorama shows, flat, N = H·W."""

    #: Unit rays (N, 3), distance (N,), and whether there is a surface (N,).
    rays: np.ndarray
    seen: np.ndarray
    solid: np.ndarray
    #: Planes that continue each pixel: normal (N, 3) and offset (N,).
    normal: np.ndarray
    offset: np.ndarray
    #: Index of the nearest pixel that shows no thing, (N,), and whether a pixel's colour is free from that of things.
    nearest: np.ndarray
    clear: np.ndarray
    shape: tuple[int, ...]
    tolerance: float


@dataclass(frozen=True)
class _Plane:
    """A plane around a thing."""

    #: Unit normal (3,), and offset ().
    normal: np.ndarray
    offset: np.ndarray
    #: Flat indices of the pixels of the ring that lie on it.
    ring: np.ndarray
    #: Whether it continues only beside these.
    local: bool


def fill(front: Layer, label: np.ndarray, rays: np.ndarray, tolerance: float) -> Layer:
    """Return the layer behind all things, labels (H, W) over 0, of `front`; open where the sky is, and beside them.

    A room is taken to be convex: of the planes around a thing, the nearest one behind it is seen.
    """
    shape, thing = label.shape, label > 0
    normal, offset = (array.reshape(-1, *array.shape[2:]) for array in layers.continuing(front, rays))
    around = _Around(
        rays.reshape(-1, 3), front.distance.ravel(), front.solid.ravel(), normal, offset, _nearest_outside(thing),
        ~_dilated(thing, _MIXED).ravel(), shape, tolerance,
    )  # fmt: skip
    region = _regions(thing)
    ring_of = _rings(thing, region)
    # Beside things, the values mean nothing.
    new_normal, distance = front.normal.reshape(-1, 3).copy(), front.distance.ravel().copy()
    solid, source = np.zeros(thing.size, bool), front.source.ravel().copy()
    inside = np.flatnonzero(thing)
    inside = inside[np.argsort(region[inside], kind="stable")]
    for pixels in np.split(inside, np.flatnonzero(np.diff(region[inside])) + 1):
        ring = np.flatnonzero((ring_of == region[pixels[0]]) & around.solid)
        new_normal[pixels], distance[pixels], solid[pixels], source[pixels] = _continued(around, pixels, ring)
    new_offset = distance * grid.dot(new_normal, around.rays)
    return Layer(
        new_normal.reshape(*shape, 3), new_offset.reshape(shape), distance.reshape(shape), solid.reshape(shape),
        source.reshape(shape),
    )  # fmt: skip


def _continued(
    around: _Around, pixels: np.ndarray, ring: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return normal, distance, whether they are solid, and source of the pixels behind a thing; indices are flat."""
    seen, rays = around.seen, around.rays[pixels]
    found = _planes(around, ring)
    member = np.full(len(seen), -1)
    for index, plane in enumerate(found):
        member[plane.ring] = index
    beside = around.nearest[pixels]
    limit = _FARTHEST * seen[ring].max() if len(ring) else 0
    distance, chosen = np.full(len(pixels), np.inf), np.full(len(pixels), -1)
    for index, plane in enumerate(found):
        reached = planes.intersect(plane.normal, plane.offset, rays)
        usable = (reached > seen[pixels] * (1 - _SLACK)) & (reached < limit)
        if plane.local:
            usable &= member[beside] == index
        closer = usable & (reached < distance)
        distance[closer], chosen[closer] = reached[closer], index
    # Where there is no plane, what is beside goes on at its own distance.
    distance = np.maximum(np.where(chosen >= 0, distance, seen[beside]), seen[pixels] * (1 + _BEHIND))
    normal, source = -rays, beside.copy()
    solid = around.solid[beside].copy()
    for index, plane in enumerate(found):
        mine = chosen == index
        normal[mine] = plane.normal
        source[mine] = _sources(around, plane, rays[mine] * distance[mine, None])
        if plane.normal[2] > _LEVEL:  # what stands up ends where the sky is beside it
            solid |= mine & (rays[:, 2] < _HORIZON)
    return normal, distance, solid, source


def _sources(around: _Around, plane: _Plane, points: np.ndarray) -> np.ndarray:
    """Return the pixels that show what a plane looks like at points (N, 3) on it: their mirror images at the outline,
    so that its texture goes on, or where these don't show the plane, the nearest that do."""
    ring = plane.ring[around.clear[plane.ring]]
    ring = ring if len(ring) else plane.ring
    _, closest = KDTree(around.rays[ring] * around.seen[ring, None]).query(points)
    nearest = ring[closest]
    mirrored = 2 * around.rays[nearest] * around.seen[nearest, None] - points
    reach = np.linalg.norm(mirrored, axis=1)
    image = np.ravel_multi_index(grid.pixel(mirrored / reach[:, None], *around.shape), around.shape)
    on = around.clear[image] & (np.abs(around.seen[image] / reach - 1) < around.tolerance)
    return np.where(on, image, nearest)


def joined(one: Layer, other: Layer) -> Layer:
    """Return both layers as one; where both are solid, that of the first."""
    first = one.solid
    return Layer(
        np.where(first[..., None], one.normal, other.normal),
        np.where(first, one.offset, other.offset),
        np.where(first, one.distance, other.distance),
        first | other.solid,
        np.where(first, one.source, other.source),
    )


def _planes(around: _Around, ring: np.ndarray) -> list[_Plane]:
    """Return the planes of a ring, flat indices, the largest first."""
    found: list[_Plane] = []
    rays, seen = around.rays, around.seen
    weight = np.sqrt(np.maximum(1 - rays[:, 2] ** 2, 1e-6))  # cos(latitude): the solid angle of a pixel
    total, left = weight[ring].sum(), ring
    while len(left) and len(found) < _MOST:
        tried = left[:: max(1, len(left) // _TRIED)]
        own = max((left[_lies(around, k, left)] for k in tried), key=lambda pixels: weight[pixels].sum())
        if weight[own].sum() < _SMALLEST * total:
            break
        normal = (around.normal[own] * weight[own, None]).sum(axis=0)
        normal /= np.linalg.norm(normal)
        # Relative to the distance, as its noise is.
        offset = np.average((rays[own] @ normal) * seen[own], weights=weight[own] / seen[own])
        before = planes.intersect(normal, offset, rays[ring]) < seen[ring] * (1 - 2 * around.tolerance)
        found.append(_Plane(normal, offset, own, bool(weight[ring[before]].sum() > _PASSES * total)))
        left = np.setdiff1d(left, own, assume_unique=True)
    return found


def _lies(around: _Around, pixel: int, others: np.ndarray) -> np.ndarray:
    """Return which of the others lie on the plane of a pixel, (N,) bool."""
    normal = around.normal[pixel]
    reached = planes.intersect(normal, around.offset[pixel], around.rays[others])
    alike = around.normal[others] @ normal > _TURNED
    return alike & (np.abs(reached / around.seen[others] - 1) < around.tolerance)


def _regions(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of a mask (H, W), (H·W,); pixels outside are alone."""
    return grid.connected(mask & grid.neighbour(mask, 0, 1), mask & grid.neighbour(mask, 1, 0))


def _dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    padded = np.pad(mask, ((0, 0), (pixels, pixels)), mode="wrap")
    return ndimage.binary_dilation(padded, np.ones((3, 3)), iterations=pixels)[:, pixels:-pixels]


def _nearest_outside(mask: np.ndarray) -> np.ndarray:
    """Return the flat index of the pixel outside a mask (H, W) that is nearest to each, (H·W,)."""
    width = mask.shape[1]
    if mask.all():
        return np.arange(mask.size)
    side = width // 2
    padded = np.pad(mask, ((0, 0), (side, side)), mode="wrap")
    nearest = np.zeros((2, *padded.shape), np.int32)
    ndimage.distance_transform_edt(padded, return_distances=False, return_indices=True, indices=nearest)
    rows, columns = nearest[:, :, side : side + width]
    return (rows * width + (columns - side) % width).ravel()


def _rings(mask: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the region (H·W,) that each pixel around the regions of a mask (H, W) is next to; −1 elsewhere."""
    reach = max(3, round(mask.shape[1] * _RING))
    nearest = _nearest_outside(~mask)
    row, column = np.divmod(np.arange(mask.size), mask.shape[1])
    there, across = np.divmod(nearest, mask.shape[1])
    turn = np.abs(column - across)
    far = np.hypot(row - there, np.minimum(turn, mask.shape[1] - turn))
    return np.where(~mask.ravel() & (far <= reach), region[nearest], -1)
