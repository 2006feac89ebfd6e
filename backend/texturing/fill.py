"""Texels that no view sees take their colours from the surface around them; margins keep islands from bleeding."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph, linalg

from . import rows
from .bake import Baked
from .cameras import Mesh

#: Points of the mesh nearer than this are one, in units of the object's longest side.
_SAME_POINT = 1e-6
#: Smallest and largest weight of an edge of a triangle: a negative one would make colours that nothing around has.
_COTANGENTS = (0.02, 50.0)


def fill(baked: Baked, mesh: Mesh) -> np.ndarray:
    """Return the texture with a colour for each texel of a triangle, (S, S, C) float32.

    `mesh`: the one that was baked, with edges short enough (`subdivide`) for a colour at each of its points. Unseen
    points take the mean of their neighbours along the mesh's edges (Laplace's equation, the seen points fixed), so
    that colours spread over the surface: not between islands that only the UV map puts side by side, and not through
    a gap. A part of the mesh that no view sees at all takes the mean of everything seen. Linear light, as baked.
    """
    missing = baked.covered & ~baked.valid
    if not missing.any() or not baked.valid.any():
        return baked.texture
    point = _points(mesh)

    # The colour of a point is the mean of the seen texels of its triangles, if these are at least the half.
    count = int(point.max()) + 1
    corner, share = point[baked.triangle[baked.covered]].ravel(), baked.corner_weights[baked.covered].ravel()
    whole = np.bincount(corner, share, count)
    share = share * np.repeat(baked.valid[baked.covered], 3)
    weight = np.bincount(corner, share, count)
    colour = np.stack(
        [np.bincount(corner, share * np.repeat(channel, 3), count) for channel in baked.texture[baked.covered].T], -1
    )
    seen = (weight > 0) & (weight >= whole / 2)
    colour[seen] /= weight[seen, None]
    colour[~seen] = baked.texture[baked.valid].mean(axis=0)
    _spread(colour, seen, point, mesh.corners)

    texture = baked.texture.copy()
    corners = colour[point[baked.triangle[missing]]]  # [N, 3, C]
    texture[missing] = np.einsum("nk,nkc->nc", baked.corner_weights[missing], corners)
    return texture


def components(mesh: Mesh) -> np.ndarray:
    """Return the number of the connected part of the mesh that each triangle is in, (T,)."""
    point = _points(mesh)
    ends = np.concatenate([point[:, [0, 1]], point[:, [1, 2]]]).T
    edges = sparse.coo_matrix((np.ones(ends.shape[1], bool), tuple(ends)), shape=(int(point.max()) + 1,) * 2)
    _, part = csgraph.connected_components(edges, directed=False)
    return part[point[:, 0]]


def _points(mesh: Mesh) -> np.ndarray:
    """Return the number of the point at each corner, (T, 3): corners at the same place are one point."""
    rounded = np.round(mesh.corners.reshape(-1, 3) / _SAME_POINT).astype(np.int64)
    return rows.numbers(rounded).reshape(-1, 3)


def _spread(colour: np.ndarray, seen: np.ndarray, point: np.ndarray, corners: np.ndarray) -> None:
    """Solve for the unseen of all points (P, C), with finite elements: the weight of an edge is the cotangents of the
    angles opposite, so that a slope goes on as it is whatever the triangles are."""
    count = len(colour)
    ends, weights = [], []
    for k in range(3):
        one, other = (corners[:, (k + side) % 3] - corners[:, k] for side in (1, 2))
        sine = np.linalg.norm(np.cross(one, other), axis=-1)
        cotangent = (one * other).sum(-1) / np.maximum(sine, 1e-12)
        ends.append(np.stack([point[:, (k + 1) % 3], point[:, (k + 2) % 3]]))
        weights.append(cotangent.clip(*_COTANGENTS))
    one, other = np.concatenate(ends, axis=1)
    weight = np.concatenate(weights)
    edges = sparse.coo_matrix((np.r_[weight, weight], (np.r_[one, other], np.r_[other, one])), (count, count)).tocsr()
    edges.setdiag(0)
    edges.eliminate_zeros()
    # Parts without a seen point have no solution of their own.
    _, part = csgraph.connected_components(edges, directed=False)
    unknown = ~seen & np.isin(part, np.unique(part[seen]))
    if not unknown.any():
        return
    equations = edges[unknown]
    matrix = (sparse.diags(np.asarray(equations.sum(axis=1)).ravel()) - equations[:, unknown]).tocsr()
    known = equations[:, seen] @ colour[seen]
    # Many times faster than conjugate gradients where triangles are long and thin.
    factors = linalg.splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    colour[unknown] = factors.solve(known)


def pad(texture: np.ndarray, covered: np.ndarray, margin: int) -> np.ndarray:
    """Return the texture (S, S, C), continued by `margin` pixels beyond its islands, `covered` (S, S) bool."""
    if not covered.any():
        return texture
    found: Any = ndimage.distance_transform_edt(~covered, return_indices=True)
    distance, nearest = found
    near = distance <= margin
    result = texture.copy()
    result[near] = texture[nearest[0][near], nearest[1][near]]
    return result
