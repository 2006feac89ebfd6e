"""Triangles in the plane → the triangle that each pixel shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: Number of pixels tested together: 80 bytes each.
_TOGETHER = 2_000_000


@dataclass(frozen=True)
class Fragments:
    """What the pixels of an image show."""

    #: Number of the triangle, (H, W) int32; -1: none.
    triangle: np.ndarray
    #: Weights of its three corners, (H, W, 3) float64, that add up to 1; 0 without a triangle.
    weights: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Where there is a triangle, (H, W) bool."""
        return self.triangle >= 0

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """Return values (H, W, C) of the triangles' corners (T, 3, C); 0 without a triangle."""
        result = np.einsum("nk,nkc->nc", self.weights[self.mask], corners[self.triangle[self.mask]])
        image = np.zeros((*self.triangle.shape, corners.shape[-1]))
        image[self.mask] = result
        return image


def rasterise(points: np.ndarray, height: int, width: int, depth: np.ndarray | None = None) -> Fragments:
    """Find the triangle at the centre of each pixel of an image.

    `points`: corners (T, 3, 2) in pixels, x to the right and y down; pixel (row, column) has its centre at
    (column + 0.5, row + 0.5). `depth`: (T, 3), linear over each triangle (an orthographic camera); the smallest is
    shown. Without it, or where depths are equal, it is the first triangle.
    """
    triangle = np.full(height * width, -1, np.int32)
    weights = np.zeros((height * width, 3))
    nearest = np.full(height * width, np.inf)
    for pixel, part, own in _inside(points, height, width):
        z = np.zeros(len(part)) if depth is None else (own * depth[part]).sum(-1)
        earlier = nearest[pixel]
        np.minimum.at(nearest, pixel, z)
        shown = np.flatnonzero((z == nearest[pixel]) & (z < earlier))[::-1]  # of equal ones, the first is kept
        triangle[pixel[shown]], weights[pixel[shown]] = part[shown], own[shown]
    return Fragments(triangle.reshape(height, width), weights.reshape(height, width, 3))


def _inside(points: np.ndarray, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pixels with their centres inside triangles, many together: pixel (N,), triangle (N,), weights of its
    corners (N, 3). Triangles come in their order."""
    points = points.astype(np.float64)
    low = np.ceil(points.min(axis=1) - 0.5).astype(np.int64).clip(0)
    high = np.minimum(np.floor(points.max(axis=1) - 0.5).astype(np.int64), (width - 1, height - 1))
    count = (high - low + 1).clip(0).prod(axis=1)
    ab, ac = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    count[area == 0] = 0
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        # As many triangles as have _TOGETHER pixels, and at least one.
        before = ends[start] - count[start]
        end = max(start + 1, int(np.searchsorted(ends, before + _TOGETHER, "right")))
        part = np.repeat(np.arange(start, end), count[start:end])
        number = np.arange(len(part)) - np.repeat(ends[start:end] - count[start:end] - before, count[start:end])
        columns = high[part, 0] - low[part, 0] + 1
        column, row = low[part, 0] + number % columns, low[part, 1] + number // columns
        x, y = column + 0.5 - points[part, 0, 0], row + 0.5 - points[part, 0, 1]
        b = (x * ac[part, 1] - y * ac[part, 0]) / area[part]
        c = (y * ab[part, 0] - x * ab[part, 1]) / area[part]
        own = np.stack([1 - b - c, b, c], axis=-1)
        inside = (own >= 0).all(axis=-1)
        yield (row * width + column)[inside], part[inside], own[inside]
        start = end
