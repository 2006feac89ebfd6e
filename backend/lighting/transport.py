"""Light between the surfaces that a panorama shows: who sees whom, and how much light arrives.

Surfaces are the pixels of a distance map, seen from its place. What a straight line passes behind them is unknown: it
is blocked where it is less than THICKNESS behind, as a share of the distance, and open beyond. Lengths are in the
map's units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

#: How far behind a surface a line is blocked, and how far behind it still counts as on it, relative to its distance.
THICKNESS, TOLERANCE = 0.6, 0.06
#: Points of a line that are compared with the distance map; where a line to infinity ends, in distances of its start.
_STEPS, _FAR_END = 16, 4.0
#: Lines that are followed together, which the processor's cache holds.
_LINES = 1 << 14
#: They are sorted out when no more than this share of them is open: that costs as much as a step of all.
_FEWER = 0.7
#: Side of the octahedral table of distances.
_SIDE = 160
_INFINITE = np.float32(1e9)


class Sources(NamedTuple):
    """Small pieces of light: S of them."""

    #: (S, 3) unit directions from the panorama's place, and their distances along them, (S,), inf for what is far away.
    ray: np.ndarray
    distance: np.ndarray
    #: (S, 3) unit normals; 0 where a piece shines alike in all directions.
    normal: np.ndarray


class DistanceTable:
    """Distances by direction, in an octahedral table, which needs no angles."""

    def __init__(self, distance: np.ndarray) -> None:
        """`distance` (H, 2·H), inf for sky."""
        height, width = distance.shape
        axis = (np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
        u, v = np.meshgrid(axis, axis)
        z = 1 - np.abs(u) - np.abs(v)
        x = np.where(z < 0, (1 - np.abs(v)) * np.sign(u), u)
        y = np.where(z < 0, (1 - np.abs(u)) * np.sign(v), v)
        length = np.sqrt(x * x + y * y + z * z)
        row = np.arccos(np.clip(z / length, -1, 1)) / np.pi * height
        column = (0.5 - np.arctan2(y, x) / (2 * np.pi)) * width
        nearest = distance[np.minimum(row.astype(int), height - 1), column.astype(int) % width]
        finite = np.where(np.isfinite(nearest), nearest, _INFINITE).astype(np.float32)
        # The farthest beside each: a surface that is seen at a slant doesn't block its own light.
        self._table = ndimage.maximum_filter(finite, 3).ravel()

    def behind(self, points: np.ndarray) -> np.ndarray:
        """Return which points (3, …) float32 lie behind a surface, but less than THICKNESS."""
        x, y, z = points
        across = np.abs(x) + np.abs(y)
        total = across + np.abs(z) + np.float32(1e-12)
        u, v = x / total, y / total
        below = z < 0
        u, v = np.where(below, np.copysign(1 - np.abs(v), x), u), np.where(below, np.copysign(1 - np.abs(u), y), v)
        half = np.float32(_SIDE / 2)
        column = np.minimum(((u + 1) * half).astype(np.int32), _SIDE - 1)
        row = np.minimum(((v + 1) * half).astype(np.int32), _SIDE - 1)
        found = self._table[row * _SIDE + column]
        length = np.sqrt(x * x + y * y + z * z)
        return (length > found * np.float32(1 + TOLERANCE)) & (length < found * np.float32(1 + THICKNESS))


def arriving(points: np.ndarray, normals: np.ndarray, sources: Sources, table: DistanceTable | None) -> np.ndarray:
    """Return the (N, S) irradiance at surface points of each source, where it gives the panorama's place 1.

    `points` and unit `normals` are (N, 3). `table` blocks light; None: nothing does.
    """
    points, normals = points.astype(np.float32), normals.astype(np.float32)
    far = ~np.isfinite(sources.distance)
    place = (sources.ray * np.where(far, 0, sources.distance)[:, None]).astype(np.float32)
    towards = np.where(far[:, None], sources.ray.astype(np.float32), place - points[:, None])  # [N, S, 3]
    length = np.sqrt(np.einsum("nsk,nsk->ns", towards, towards))
    unit = towards / np.maximum(length, 1e-6)[..., None]
    cosine = np.maximum(np.einsum("nsk,nk->ns", unit, normals), 0)
    # A source nearer than a tenth of its distance is larger than a point.
    from_place = np.where(far, 1, sources.distance)
    nearer = np.where(far, 1, (from_place / np.maximum(length, 0.1 * from_place)) ** 2)
    shining = -np.einsum("sk,sk->s", sources.normal, sources.ray)
    lambert = np.maximum(-np.einsum("nsk,sk->ns", unit, sources.normal), 0) / np.maximum(shining, 0.1)
    turned = np.where(shining > 0.1, lambert, 1)
    light = cosine * nearer * np.where(far, 1, turned)
    if table is not None:
        lit = np.nonzero(light > 1e-4)
        light[lit] *= _open(points[lit[0]], np.where(far, 0, 1)[lit[1]], towards[lit], table)
    return light


def _open(start: np.ndarray, near: np.ndarray, towards: np.ndarray, table: DistanceTable) -> np.ndarray:
    """Return which lines from `start` (L, 3) along `towards` are open to their end; to infinity where not `near`."""
    reach = np.where(near > 0, 1, _FAR_END * np.linalg.norm(start, axis=-1)).astype(np.float32)
    is_open = np.ones(len(start), bool)
    for first in range(0, len(start), _LINES):
        part = slice(first, first + _LINES)
        begin, line = start[part].T.copy(), (towards[part] * reach[part, None]).T.copy()
        lines = np.arange(first, first + begin.shape[1])
        for step in range(_STEPS):
            # Denser at the start; the ends themselves lie on surfaces.
            share = np.float32(0.04 + 0.9 * ((step + 0.5) / _STEPS) ** 1.5)
            is_open[lines] &= ~table.behind(begin + line * share)
            left = np.flatnonzero(is_open[lines])
            if len(left) < _FEWER * len(lines):
                lines, begin, line = lines[left], begin[:, left], line[:, left]
    return is_open
