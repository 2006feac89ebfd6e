"""Large flat surfaces of soft maps, such as floors, walls and ceilings, on one plane each."""

from __future__ import annotations

import dataclasses

import numpy as np

from . import grid, planes
from .planes import Planes

#: Cosine between normals of neighbours on one flat surface.
_STRAIGHT = np.cos(np.radians(4))
#: Smallest surface, as a share of all pixels.
_SMALLEST = 2e-3
#: Share of a surface's pixels that its plane must hold within the noise: others are curved.
_FLAT = 0.8
#: Fits of a plane, each to the pixels that the last one held.
_FITS = 4


def flatten(found: Planes) -> Planes:
    """Put the pixels of large connected surfaces that are flat within the noise on their common plane."""
    label = _surfaces(found)
    distance, normal = found.distance.copy(), found.normal.copy()
    flat_rays, flat_distance, flat_normal = found.rays.reshape(-1, 3), distance.ravel(), normal.reshape(-1, 3)
    sizes = np.bincount(label)
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(sizes)
    for surface in np.flatnonzero(sizes > _SMALLEST * label.size):
        pixels = order[ends[surface] - sizes[surface] : ends[surface]]
        # Of a plane n·P = o, find n/o: what n/o·P differs from 1 is the relative error of the distance.
        rays = flat_rays[pixels].astype(np.float64)
        points = rays * flat_distance[pixels, None]
        plane, held = _plane(points, found.noise)
        if held.mean() >= _FLAT:
            flat_distance[pixels[held]] = 1 / (rays[held] @ plane)
            flat_normal[pixels[held]] = -plane / np.linalg.norm(plane)
    return dataclasses.replace(found, distance=distance, normal=normal)


def _plane(points: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit a plane to points (N, 3); return n/o (3,), and which points it holds within the noise, (N,) bool.

    It starts from all points: no plane is found unless most of them lie on one.
    """
    held = np.ones(len(points), bool)
    plane = np.zeros(3)
    for _ in range(_FITS):
        if held.mean() < _FLAT:
            break
        # Least squares; of points in a line, too.
        plane = np.linalg.lstsq(points[held].T @ points[held], points[held].sum(axis=0), rcond=None)[0]
        held = np.abs(points @ plane - 1) < noise
    return plane, held


def _surfaces(found: Planes) -> np.ndarray:
    """Number the connected surfaces without creases, (H·W,)."""

    def links(rays: np.ndarray, distance: np.ndarray, normal: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, ...]:
        points = rays * distance[..., None]
        offset, least = grid.dot(normal, points), distance * np.float32(-planes.MIN_COSINE / 4)
        found_links = []
        for side in ((0, 1), (1, 0)):
            there, point, limit, also = (
                grid.shifted(grid.padded(array, 1), 1, *side) for array in (normal, points, least, usable)
            )
            near = np.abs(planes.ratios(normal, offset, point, limit) - 1) < noise
            found_links.append(usable & also & near & (grid.dot(normal, there) > _STRAIGHT))
        return tuple(found_links)

    noise = found.noise
    usable = found.solid & found.trusted
    return grid.connected(*grid.in_bands(links, 1, found.rays, found.distance, found.normal, usable))
