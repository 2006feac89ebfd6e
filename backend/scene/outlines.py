"""Outlines of what is in front → smooth ones: the edges of pixels make stairs of what is straight or round.

Each vertex of an outline moves by less than half a pixel to where the vertices beside it on the same outline lead to:
a constrained net, as that of Gibson (1998), smoothed without shrinking it (Taubin, 1995).
"""

from __future__ import annotations

import numpy as np

from . import grid
from .layers import Layer, Links

#: Passes of smoothing, and the steps of each towards the mean of the neighbours, and back.
_PASSES, _TOWARDS, _BACK = 20, 0.5, -0.52
#: Largest shift of a vertex in rows and in columns, in pixels.
_LARGEST = 0.45


def edges(front: Layer, links: Links, vertex: np.ndarray) -> np.ndarray:
    """Return the edges of outlines, vertices of their two ends (N, 2): of what is nearer, or before the sky.

    `vertex`: of each corner of each pixel, from the top left one clockwise, (4, H, W). `links`: those of `front`.
    """
    distance = np.where(front.solid, front.distance, np.inf)
    found = []
    for linked, side, here, there in ((links.right, (0, 1), (1, 2), (0, 3)), (links.below, (1, 0), (3, 2), (0, 1))):
        beyond = grid.neighbour(distance, *side)
        torn = ~linked
        if side[0]:
            torn[-1] = False
        for nearer, corners, shift in ((distance < beyond, here, (0, 0)), (beyond < distance, there, side)):
            found.append(np.stack([grid.neighbour(vertex[corner], *shift)[torn & nearer] for corner in corners], -1))
    return np.concatenate(found)


def smooth(ends: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the shift of each vertex in rows and columns, (V, 2).

    `ends`: see `edges`. `row`, `column`: place of each vertex (V,), in pixels of a panorama (H, W), `shape`. What ends,
    branches, or lies at a pole stays.
    """
    height, width = shape
    used, local = np.unique(ends, return_inverse=True)
    local = local.reshape(-1, 2)
    one, other = np.concatenate([local, local[:, ::-1]]).T
    i, j = row[used], column[used]
    step = np.stack([i[other] - i[one], (j[other] - j[one] + 1) % width - 1], axis=-1)
    free = (np.bincount(one, minlength=len(used)) == 2) & (i > 0) & (i < height)
    one, other, step = one[free[one]], other[free[one]], step[free[one]]
    shift = np.zeros((len(used), 2))
    for _ in range(_PASSES):
        for share in (_TOWARDS, _BACK):
            towards = step + shift[other] - shift[one]
            for axis in range(2):
                shift[:, axis] += share / 2 * np.bincount(one, towards[:, axis], len(used))
            np.clip(shift, -_LARGEST, _LARGEST, out=shift)
    result = np.zeros((len(row), 2))
    result[used] = shift
    return result
