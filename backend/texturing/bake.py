"""Views of a mesh → one texture on its UV map.

Each texel takes the mean of the views that see its point, weighted by how squarely they see it (`CameraProjection` of
huanngzh/MV-Adapter, whose thresholds these are).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ...shared.imaging.rasterise import Fragments, rasterise
from ..io import parallel
from . import cameras
from .cameras import Mesh, joined

#: Largest distance between a texel's point and the one that a view shows there.
POSITION_ERROR = 1e-3
#: Smallest cosine between normal and view, and the power of it that weighs a view.
MIN_COSINE, POWER = 0.2, 3
#: Largest slope of the depth, per pixel of a view of 1024 pixels, within _DILATION pixels: views end at their edges.
MAX_GRADIENT, _GRADIENT_SIZE, _DILATION = 0.1, 1024, 5
_BACKGROUND_DEPTH = 100.0
#: Number of texels that are sampled together, in threads.
_TOGETHER = 2**18
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

    def over(self, other: Baked) -> Baked:
        """Return this, with another's colours where no view sees a texel; `weight` stays that of these views."""
        missing = other.valid & ~self.valid
        texture = np.where(missing[..., None], other.texture, self.texture)
        return replace(self, texture=texture, valid=self.valid | missing)

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """Return values (S, S, C) of the triangles' corners (T, 3, C); 0 without a triangle."""
        return Fragments(self.triangle, self.corner_weights).interpolate(corners)


def bake(
    mesh: Mesh,
    views: np.ndarray,
    size: int,
    *,
    numbers: Sequence[int] = range(6),
    others: Mesh | None = None,
    max_gradient: float | None = None,
    power: float = POWER,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Baked:
    """Bake views (N, H, H, C) into a texture of `size` pixels.

    `numbers`: those of the cameras that the views are of. Colours are averaged as they are: give linear light.
    `others` hide the mesh from the cameras, and get no texture. `max_gradient` is per pixel of the views; by default
    that of the reference at 1024 pixels, scaled to their size. Overlapping UVs: the first triangle has the texel.
    `check_cancelled` is called about every second; raise in it to stop.
    """
    side, channels = views.shape[1], views.shape[-1]
    if max_gradient is None:
        max_gradient = MAX_GRADIENT * _GRADIENT_SIZE / side
    fragments = rasterise(texel_points(mesh.uv, size), size, size)
    covered = fragments.mask
    corners, triangle = fragments.weights[covered], fragments.triangle[covered]
    count = len(triangle)
    weights = np.zeros((len(views), count), np.float32)
    colours = np.zeros((count, channels))
    whole = mesh if others is None else joined(mesh, others)
    for index, (number, picture) in enumerate(zip(numbers, views, strict=True)):
        maps = _maps(whole, number, picture)
        facing = (mesh.normals @ cameras.AXES[number][2] > 0).any(axis=1)[triangle]

        def add(
            start: int, index: int = index, number: int = number, maps: np.ndarray = maps, facing: np.ndarray = facing
        ) -> None:
            check_cancelled()
            part = start + np.flatnonzero(facing[start : start + _TOGETHER])
            texels = np.einsum("nk,nkc->nc", corners[part], mesh.corners[triangle[part]])
            sampled = sample(maps, cameras.project(texels, number, side)[0])
            colour, cosine, point, gradient = np.split(sampled, np.cumsum([channels, 1, 3]), axis=-1)
            valid = (
                (np.linalg.norm(point - texels, axis=-1) < POSITION_ERROR)
                & (cosine[:, 0] > MIN_COSINE)
                & (gradient[:, 0] < max_gradient)
            )
            weight = np.where(valid, cosine[:, 0] ** power, 0)
            weights[index, part] = weight
            colours[part] += weight[:, None] * colour

        parallel.in_threads(add, range(0, count, _TOGETHER))
    total = weights.sum(axis=0)
    some = total > 0
    weights /= np.where(some, total, 1)
    texture = np.zeros((size, size, channels), np.float32)
    texture[covered] = colours / np.where(some, total, 1)[:, None]
    valid = np.zeros((size, size), bool)
    valid[covered] = some
    weight = np.zeros((len(views), size, size), np.float32)
    weight[:, covered] = weights
    return Baked(texture, valid, covered, weight, fragments.triangle, fragments.weights)


def texel_points(uv: np.ndarray, size: int) -> np.ndarray:
    """Return texture coordinates (…, 2) in pixels of a texture whose first row is at v = 1."""
    return np.stack([uv[..., 0], 1 - uv[..., 1]], axis=-1) * size


def _maps(mesh: Mesh, number: int, picture: np.ndarray) -> np.ndarray:
    """Return what a view knows of each pixel, (H + 2, H + 2, C + 5) float32: colour, cosine, position and slope of the
    depth, with a border of zeros."""
    seen = cameras.render(mesh, number, len(picture))
    cosine = (seen.normal @ cameras.AXES[number][2]).clip(0, 1)
    gradient = _gradient(np.where(seen.mask, seen.depth, _BACKGROUND_DEPTH))
    maps = np.concatenate([picture, cosine[..., None], seen.position, gradient[..., None]], axis=-1)
    return np.pad(maps.astype(np.float32), ((1, 1), (1, 1), (0, 0)))


def _gradient(depth: np.ndarray) -> np.ndarray:
    """Return the largest slope of a depth map (H, H) around each pixel; outside of the map, the depth is 0."""
    across = ndimage.correlate(depth, _SOBEL, mode="constant")
    along = ndimage.correlate(depth, _SOBEL.T, mode="constant")
    return ndimage.maximum_filter(np.hypot(across, along), _DILATION, mode="constant")


def sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Sample an image with a border of one pixel, (H + 2, W + 2, C), linearly at points (N, 2) in its pixels."""
    height, width = image.shape[0] - 2, image.shape[1] - 2
    x, y = (points[:, 0] + 0.5).clip(0, width + 1), (points[:, 1] + 0.5).clip(0, height + 1)
    left, top = np.minimum(x.astype(int), width), np.minimum(y.astype(int), height)
    fx, fy = (offset[:, None].astype(np.float32) for offset in (x - left, y - top))
    upper = image[top, left] * (1 - fx) + image[top, left + 1] * fx
    lower = image[top + 1, left] * (1 - fx) + image[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy
