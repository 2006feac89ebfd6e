"""Triangles divided until their edges are short; the surface stays as it is."""

from __future__ import annotations

import numpy as np

from .cameras import Mesh

#: Largest number of divisions of a triangle's edges by two.
_MAX_LEVELS = 7
#: Where the midpoints go: the four triangles by corners (0, 1, 2) and midpoints (3: 01, 4: 12, 5: 20).
_PARTS = np.array([[0, 3, 5], [3, 1, 4], [5, 4, 2], [3, 4, 5]])


def subdivide(mesh: Mesh, max_edge: float) -> Mesh:
    """Divide triangles with an edge longer than `max_edge` into four, as often as needed.

    Normals are interpolated and not normalised, so that interpolating again gives what it gave before.
    """
    values = np.concatenate([mesh.corners, mesh.normals, mesh.uv], axis=-1)  # (T, 3, 8)
    done = []
    for _ in range(_MAX_LEVELS):
        edges = np.linalg.norm(values[..., :3] - np.roll(values[..., :3], -1, axis=1), axis=-1)
        long = edges.max(axis=1) > max_edge
        done.append(values[~long])
        if not long.any():
            break
        corners = values[long]
        points = np.concatenate([corners, (corners + np.roll(corners, -1, axis=1)) / 2], axis=1)
        values = points[:, _PARTS].reshape(-1, 3, values.shape[-1])
    else:
        done.append(values)
    values = np.concatenate(done)
    return Mesh(values[..., :3], values[..., 3:6], values[..., 6:])
