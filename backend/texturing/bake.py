"""Views of a mesh → one texture on its UV map.

Each texel takes the mean of the views that see its point, weighted by how squarely they see it (`CameraProjection` of
huanngzh/MV-Adapter, whose thresholds these are).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..geometry.rasterise import Fragments, rasterise
from . import cameras
from .cameras import Mesh

#: Largest distance between a texel's point and the one that a view shows there.
POSITION_ERROR = 1e-3
#: Smallest cosine between normal and view, and the power of it that weighs a view.
MIN_COSINE, POWER = 0.2, 3
#: Largest slope of the depth, per pixel of a view of 1024 pixels, within _DILATION pixels: views end at their edges.
MAX_GRADIENT, _GRADIENT_SIZE, _DILATION = 0.1, 1024, 5
_BACKGROUND_DEPTH = 100.0
_SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)


@dataclass(frozen=True)
class Baked:
    """A texture, row 0 at v = 1."""

    #: (S, S, C) float32; 0 where no view sees a texel.
    texture: np.ndarray
    #: Where a view sees a texel, (S, S) bool.
    valid: np.ndarray
    #: Where there is a triangle, (S, S) bool.
    covered: np.ndarray
    #: Share of each view, (views, S, S) float32.
    weight: np.ndarray
    #: The triangle of each texel, (S, S) int32, -1: none; and the weights of its corners, (S, S, 3).
    triangle: np.ndarray
    corner_weights: np.ndarray

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """Return values (S, S, C) of the triangles' corners (T, 3, C); 0 without a triangle."""
        return Fragments(self.triangle, self.corner_weights).interpolate(corners)


def bake(mesh: Mesh, views: np.ndarray, size: int, *, max_gradient: float | None = None, power: float = POWER) -> Baked:
    """Bake the six views (6, H, H, C) into a texture of `size` pixels.

    Colours are averaged as they are: give linear light. `max_gradient` is per pixel of the views; by default that of
    the reference at 1024 pixels, scaled to their size. Overlapping UVs: the first triangle has the texel.
    """
    side = views.shape[1]
    if max_gradient is None:
        max_gradient = MAX_GRADIENT * _GRADIENT_SIZE / side
    points = np.stack([mesh.uv[..., 0], 1 - mesh.uv[..., 1]], axis=-1) * size
    fragments = rasterise(points, size, size)
    covered = fragments.mask
    texels = fragments.interpolate(mesh.corners)[covered]  # [N, 3]

    weights = np.zeros((len(views), len(texels)))
    colours = np.zeros((len(texels), views.shape[-1]))
    for number, picture in enumerate(views):
        seen = cameras.render(mesh, number, side)
        cosine = (seen.normal @ cameras.AXES[number][2]).clip(0, 1)
        gradient = _gradient(np.where(seen.mask, seen.depth, _BACKGROUND_DEPTH))
        maps = np.concatenate([picture, cosine[..., None], seen.position, gradient[..., None]], axis=-1)
        sampled = _sample(maps, cameras.project(texels, number, side)[0])
        colour, cosine, point, gradient = np.split(sampled, np.cumsum([picture.shape[-1], 1, 3]), axis=-1)
        valid = (
            (np.linalg.norm(point - texels, axis=-1) < POSITION_ERROR)
            & (cosine[:, 0] > MIN_COSINE)
            & (gradient[:, 0] < max_gradient)
        )
        weights[number] = np.where(valid, cosine[:, 0] ** power, 0)
        colours += weights[number, :, None] * colour
    total = weights.sum(axis=0)
    some = total > 0
    texture = np.zeros((size, size, views.shape[-1]), np.float32)
    texture[covered] = colours / np.where(some, total, 1)[:, None]
    valid = np.zeros((size, size), bool)
    valid[covered] = some
    weight = np.zeros((len(views), size, size), np.float32)
    weight[:, covered] = weights / np.where(some, total, 1)
    return Baked(texture, valid, covered, weight, fragments.triangle, fragments.weights)


def _gradient(depth: np.ndarray) -> np.ndarray:
    """Return the largest slope of a depth map (H, H) around each pixel; outside of the map, the depth is 0."""
    across = ndimage.correlate(depth, _SOBEL, mode="constant")
    along = ndimage.correlate(depth, _SOBEL.T, mode="constant")
    return ndimage.maximum_filter(np.hypot(across, along), _DILATION, mode="constant")


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Sample an image (H, W, C) linearly at points (N, 2) in pixels; it is 0 outside."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    x, y = (points[:, 0] + 0.5).clip(0, width + 1), (points[:, 1] + 0.5).clip(0, height + 1)
    left, top = np.minimum(x.astype(int), width), np.minimum(y.astype(int), height)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy
