"""How much triangles in the plane overlap."""

from __future__ import annotations

import numpy as np

#: Smallest weight of a corner inside a triangle: rounding leaves less on an edge that two triangles share.
_EDGE = 1e-6
#: Number of triangles processed together: at most 250 bytes for each and each row of pixels.
_TOGETHER = 1000


def overlap(points: np.ndarray, height: int, width: int) -> float:
    """Return the share of the covered pixels that more than one triangle covers; arguments as in `rasterise`.

    Pixels with their centre on a triangle's edge are not counted for it.
    """
    change = np.zeros((height, width + 1), np.int32)  # of the number of triangles, from the pixel before to each
    for start in range(0, len(points), _TOGETHER):
        row, begin, end = _spans(points[start : start + _TOGETHER].astype(np.float64), height, width)
        np.add.at(change, (row, begin), 1)
        np.add.at(change, (row, end), -1)
    count = change[:, :-1].cumsum(axis=1)
    return float((count > 1).sum() / max((count > 0).sum(), 1))


def _spans(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows of pixels inside triangles (T, 3, 2): row, first column and the column after the last, (N,) each."""
    ab, ac = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    points, ab, ac, area = points[area != 0], ab[area != 0], ac[area != 0], area[area != 0, None]
    low = np.ceil(points[..., 1].min(axis=1) - 0.5).astype(np.int64).clip(0, height)
    high = np.floor(points[..., 1].max(axis=1) + 0.5).astype(np.int64).clip(0, height)
    count = (high - low).clip(0)
    part = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(part)) - np.repeat(np.cumsum(count) - count - low, count)

    # The weights of the corners are linear along a row: slope · x + offset, x from the first corner.
    slope = (np.stack([ab[:, 1] - ac[:, 1], ac[:, 1], -ab[:, 1]], axis=-1) / area)[part]
    offset_b, offset_c = -ac[:, 0] / area[:, 0], ab[:, 0] / area[:, 0]
    y = row + 0.5 - points[part, 0, 1]
    offset = np.stack([1 - y * (offset_b + offset_c)[part], y * offset_b[part], y * offset_c[part]], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = (_EDGE - offset) / slope
    left = np.where(slope > 0, bound, -np.inf).max(axis=1)
    right = np.where(slope < 0, bound, np.inf).min(axis=1)
    outside = ((slope == 0) & (offset < _EDGE)).any(axis=1)
    x = points[part, 0, 0] - 0.5
    begin = np.ceil(left + x).clip(0, width).astype(np.int64)
    end = np.where(outside, begin, np.floor(right + x + 1).clip(begin, width).astype(np.int64))
    return row, begin, end
