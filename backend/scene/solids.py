"""The visible surface of a thing → a closed one.

What is seen of a box, a ball or a cylinder is half of its surface; the other half is its mirror image behind the
outline. So the back of a thing lies as far behind a membrane, stretched over its outline, as its front lies before it:
where three sides of a box are seen, its volume is right from far away, whatever its pose. A side that is seen flat from
the front says nothing of its thickness: it is given a share of its size, down to what is behind.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from . import grid, planes
from .layers import Layer
from .objects import Things
from .surface import Surface

#: Smallest thickness of a thing, as a share of its visible size.
_THICKNESS = 0.15
#: How far in front of what is behind them things lie, and backs behind fronts at least, relative to the distance.
_GAP, _THINNEST = 2e-3, 1e-3
#: Smallest weight of an edge in the membrane, whose triangles may be narrow.
_NARROW = 0.05


@dataclass(frozen=True)
class Solid:
    """A thing as a mesh."""

    name: str
    #: Number of triangles of its front and of its back.
    front: int
    back: int
    #: Indices of its vertices.
    vertices: np.ndarray


def close(mesh: Surface, things: Things, behind: Layer) -> tuple[Surface, list[Solid]]:
    """Give each thing a back: append the backs' triangles in the order of things, and order the first layer's by thing.

    In the first layer the rest comes first, then each thing. `counts` stay those of the layers. `mesh` has the unit of
    the layer `behind`.
    """
    count = mesh.counts[0]
    corners = mesh.positions[mesh.triangles[:count]]
    label = _at(corners / np.linalg.norm(corners, axis=-1, keepdims=True), things.label)
    order = np.argsort(label, kind="stable")
    front, uv = mesh.triangles[:count][order], mesh.uv[:count][order]
    ends = np.searchsorted(label[order], np.arange(1, len(things.names) + 2))
    positions, triangles, texture, solids = (
        [mesh.positions.copy()],
        [front, mesh.triangles[count:]],
        [uv, mesh.uv[count:]],
        [],
    )
    total = len(mesh.positions)
    for name, start, end in zip(things.names, ends, ends[1:], strict=False):
        own = front[start:end]
        if not len(own):
            continue
        used, local = np.unique(own, return_inverse=True)
        points, back = _sides(mesh.positions[used], local.reshape(-1, 3), behind)
        faces, corner = _shell(local.reshape(-1, 3))
        positions[0][used] = points
        positions.append(back)
        triangles.append(np.where(faces < len(used), used[faces % len(used)], total + faces - len(used)))
        texture.append(uv[start:end].reshape(-1, 2)[corner])
        vertices = np.concatenate([used, np.arange(total, total + len(back))])
        solids.append(Solid(name, len(own), len(faces), vertices))
        total += len(back)
    closed = dataclasses.replace(
        mesh,
        positions=np.concatenate(positions),
        triangles=np.concatenate(triangles).astype(np.int32),
        uv=np.concatenate(texture),
    )
    return closed, solids


def base(points: np.ndarray, world_from_panorama: np.ndarray) -> np.ndarray:
    """Return the middle of the base of points (N, 3), in the panorama's frame as they are.

    `world_from_panorama`, a rotation (3, 3), tells what is below.
    """
    world = points @ world_from_panorama.T
    low, high = world.min(axis=0), world.max(axis=0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]) @ world_from_panorama


def _at(rays: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values (H, W) of the pixels in the middle of triangles, from the rays (T, 3, 3) of their corners."""
    height, width = values.shape
    middle = rays.mean(axis=1)
    middle /= np.linalg.norm(middle, axis=-1, keepdims=True)
    row, column = grid.pixel(middle, height, width)
    return values[row, column]


def _sides(points: np.ndarray, triangles: np.ndarray, behind: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices of the front, from those that are seen (V, 3), and those behind them, (V, 3) each."""
    reach = np.linalg.norm(points, axis=1)
    rays = points / reach[:, None]
    farthest = _limit(rays, behind) * (1 - _GAP)
    reach = np.minimum(reach, farthest)  # pixels at the base reach into the floor
    corners = (rays * reach[:, None])[triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    # As much of each cone of rays lies behind the membrane as before it.
    mirrored = np.cbrt(2 * _membrane(rays, triangles, reach) ** 3 - reach**3)
    back = np.minimum(np.maximum(mirrored, reach + _THICKNESS * np.sqrt(area)), farthest)
    return rays * reach[:, None], rays * np.maximum(back, reach * (1 + _THINNEST))[:, None]


def _limit(rays: np.ndarray, behind: Layer) -> np.ndarray:
    """Return the distance (V,) of what is behind things along rays (V, 3): of the nearest of the four planes around."""
    height, width = behind.distance.shape
    v = np.arccos(np.clip(rays[:, 2], -1, 1)) / np.pi * height - 0.5
    u = (0.5 - np.arctan2(rays[:, 1], rays[:, 0]) / (2 * np.pi)) * width - 0.5
    nearest = np.full(len(rays), np.inf)
    for below, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row = np.clip(np.floor(v).astype(int) + below, 0, height - 1)
        column = (np.floor(u).astype(int) + right) % width
        reached = planes.intersect(behind.normal[row, column], behind.offset[row, column], rays)
        nearest = np.minimum(nearest, np.where(behind.solid[row, column], reached, np.inf))
    return nearest


def _border(triangles: np.ndarray) -> np.ndarray:
    """Return the flat indices of the corners (T, 3) that start an edge of one triangle only."""
    start, end = triangles.ravel(), np.roll(triangles, -1, axis=1).ravel()
    count = int(triangles.max()) + 1
    key = np.minimum(start, end).astype(np.int64) * count + np.maximum(start, end)
    _, inverse, number = np.unique(key, return_inverse=True, return_counts=True)
    return np.flatnonzero(number[inverse] == 1)


def _membrane(rays: np.ndarray, triangles: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (V,) that are given on the outline, and harmonic inside it, of triangles on the sphere of rays."""
    outline = np.zeros(len(rays), bool)
    border = _border(triangles)
    outline[triangles.ravel()[border]] = outline[np.roll(triangles, -1, axis=1).ravel()[border]] = True
    inside = np.flatnonzero(~outline)
    if not len(inside) or not outline.any():
        return values
    weights = sparse.coo_array((len(rays), len(rays)))
    for corner in range(3):
        tip, one, other = (triangles[:, (corner + k) % 3] for k in range(3))
        a, b = rays[one] - rays[tip], rays[other] - rays[tip]
        cotangent = (a * b).sum(-1) / np.maximum(np.linalg.norm(np.cross(a, b), axis=-1), 1e-12)
        weight = np.maximum(cotangent, _NARROW)
        weights = weights + sparse.coo_array((weight, (one, other)), shape=weights.shape)
    weights = sparse.csr_array(weights + weights.T)
    laplacian = sparse.csc_array(sparse.diags_array(weights.sum(axis=1)) - weights)
    result = values.copy()
    known = np.flatnonzero(outline)
    right = -laplacian[inside][:, known] @ values[known]
    result[inside] = linalg.spsolve(laplacian[inside][:, inside], right)
    return result


def _shell(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles of back and sides, (N, 3), and the flat index of the corner of the front (T, 3) that each of
    their corners is behind, (N, 3). Vertices of the back are numbered after those of the front."""
    count = int(triangles.max()) + 1
    index = np.arange(triangles.size).reshape(-1, 3)
    border = _border(triangles)
    following = border // 3 * 3 + (border + 1) % 3
    flat = triangles.ravel()
    a, b = flat[border], flat[following]
    faces = np.concatenate(
        [triangles[:, ::-1] + count, np.stack([b, a, a + count], 1), np.stack([b, a + count, b + count], 1)]
    )
    corner = np.concatenate(
        [index[:, ::-1], np.stack([following, border, border], 1), np.stack([following, border, following], 1)]
    )
    return faces, corner
