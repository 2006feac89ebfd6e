"""A UV map without overlaps for any mesh: charts that each face one of six directions, packed in rows.

As Blender's Smart UV Project and Lévy et al. 2002 do, but projected: lengths shrink by at most √3.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from ...shared.imaging.overlap import overlap
from . import rows

#: Points of the mesh nearer than this are one, in units of its longest side.
_SAME_POINT = 1e-6
#: Space around a chart, as a share of the map's side: two texels of 512.
_GAP = 1 / 256
#: Size at which a chart is tested, in pixels, and the largest share of it that may overlap: rounding at its edges.
_TESTED, _OVERLAP = 128, 0.002
#: Tries to find the scale at which the charts fill the map.
_TRIES = 24


def unwrap(corners: np.ndarray) -> np.ndarray:
    """Return texture coordinates (T, 3, 2) float32 in [0, 1] for the corners of triangles (T, 3, 3).

    Triangles that face the same of six directions and share an edge form a chart, as long as it doesn't overlap
    itself. All charts have one scale.
    """
    corners = corners.astype(np.float64)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    corners = (corners - low) / max((high - low).max(), 1e-30)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.abs(normal).argmax(axis=1)
    negative = np.take_along_axis(normal, axis[:, None], 1)[:, 0] < 0
    # The other two axes; on negative sides mirrored, so that all charts are seen from outside.
    across, along = (axis + 1) % 3, (axis + 2) % 3
    flat = np.stack([_component(corners, across), _component(corners, along)], axis=-1)
    flat[negative, :, 0] *= -1
    chart = _charts(corners, axis * 2 + negative)
    chart = _without_overlaps(flat, corners.mean(axis=1), chart)
    return _packed(flat, chart).astype(np.float32)


def _component(corners: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return a coordinate (T, 3) of corners (T, 3, 3), that of each triangle's axis (T,)."""
    return np.take_along_axis(corners, axis[:, None, None].repeat(3, 1), 2)[..., 0]


def _charts(corners: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the number of the chart of each triangle, (T,): those of one direction (T,) that share edges."""
    rounded = np.round(corners.reshape(-1, 3) / _SAME_POINT).astype(np.int64)
    point = rows.numbers(rounded).reshape(-1, 3)
    edges = np.sort(np.stack([point, np.roll(point, -1, axis=1)], axis=-1), axis=-1).reshape(-1, 2)
    key = np.concatenate([edges, np.repeat(direction, 3)[:, None]], axis=1)
    triangle = np.repeat(np.arange(len(corners)), 3)
    real = edges[:, 0] != edges[:, 1]  # an edge whose ends are one point joins nothing
    edge = rows.numbers(key[real])
    # Triangles and edges are nodes of one graph, so that many triangles on one edge take no more room than their count.
    count = len(corners) + len(edge)
    graph = sparse.coo_matrix((np.ones(len(edge), bool), (triangle[real], len(corners) + edge)), (count, count))
    return csgraph.connected_components(graph, directed=False)[1][: len(corners)]


def _without_overlaps(flat: np.ndarray, centre: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """Return the charts, those that overlap themselves cut in half, again and again, where they are longest."""
    order = np.argsort(chart, kind="stable")
    waiting = np.split(order, np.flatnonzero(np.diff(chart[order])) + 1)
    result, count = np.empty_like(chart), 0
    while waiting:
        part = waiting.pop()
        if len(part) == 1 or not _overlaps(flat[part]):
            result[part], count = count, count + 1
            continue
        place = centre[part]
        axis = (place.max(axis=0) - place.min(axis=0)).argmax()
        ranked = part[np.argsort(place[:, axis], kind="stable")]
        waiting += [ranked[: len(part) // 2], ranked[len(part) // 2 :]]
    return result


def _overlaps(flat: np.ndarray) -> bool:
    low, high = flat.min(axis=(0, 1)), flat.max(axis=(0, 1))
    return overlap((flat - low) / max((high - low).max(), 1e-30) * _TESTED, _TESTED, _TESTED) > _OVERLAP


def _packed(flat: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """Return the triangles (T, 3, 2) with their charts moved and scaled into [0, 1]."""
    count = int(chart.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, chart, flat.min(axis=1))
    np.maximum.at(high, chart, flat.max(axis=1))
    size = high - low
    order = np.argsort(-size[:, 1], kind="stable")
    # The largest scale at which they fit, by bisection.
    small, large = 0.0, 1 / max(size.max(), 1e-30)
    gap = min(_GAP, 0.25 / count**0.5)
    for _ in range(_TRIES):
        middle = (small + large) / 2
        if _rows(size[order] * middle + gap) is None:
            large = middle
        else:
            small = middle
    places = _rows(size[order] * small + gap)
    assert places is not None
    place = np.empty((count, 2))
    place[order] = places
    return (flat - low[chart][:, None]) * small + place[chart][:, None] + gap / 2


def _rows(size: np.ndarray) -> np.ndarray | None:
    """Return lower left corners (N, 2) of rectangles (N, 2), from the highest on, in rows that fill a square of 1.

    None where they don't fit.
    """
    corners = np.empty_like(size)
    x = y = height = 0.0
    for number, (width, tall) in enumerate(size.tolist()):
        if x + width > 1:
            x, y, height = 0.0, y + height, 0.0
        height = max(height, tall)
        if y + height > 1 or width > 1:
            return None
        corners[number] = x, y
        x += width
    return corners
