"""A mirror ball and a grey ball in the light of a panorama, as film sets use them to show its direction and colour."""

from __future__ import annotations

import numpy as np

from .colour import srgb_from_linear
from .sphere import directions, solid_angles

#: Reflectance of the grey ball.
GREY = 0.5
#: The viewer looks along +X, with +Y on the left: columns are right, up and back, as of Blender's cameras.
FRONT = np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]])
#: Most rows of parts of the panorama that light the grey ball.
_ROWS = 16
#: Half the width of a ball's picture, in radii.
_MARGIN = 1.05


def balls(light: np.ndarray, size: int, panorama_from_camera: np.ndarray = FRONT) -> np.ndarray:
    """Return a mirror ball and a grey ball under a panorama of linear light: (size, 2 · size, 3) float32 sRGB.

    light: (H, W, 3). A point p of the grey ball has the irradiance ∫ light(ω) max(p · ω, 0) dω, here the sum of the
        light of up to _ROWS × 2 · _ROWS parts of the panorama, and the radiance GREY / π times that.
    panorama_from_camera: (3, 3), the viewer's right, up and back in the panorama's frame (+X its centre, +Z up).

    The exposure is that of the panorama: 1 is white. Outside the balls it is black.
    """
    right, up = _plane(size)
    is_ball = inside(size)
    seen = np.stack([right, up, np.sqrt(np.maximum(1 - right**2 - up**2, 0))], axis=-1)
    back = panorama_from_camera[:, 2]
    normal = seen @ panorama_from_camera.T
    mirrored = 2 * (normal @ back)[..., None] * normal - back
    height, width = light.shape[:2]
    row = np.minimum((np.arccos(mirrored[..., 2].clip(-1, 1)) / np.pi * height).astype(int), height - 1)
    column = ((0.5 - np.arctan2(mirrored[..., 1], mirrored[..., 0]) / (2 * np.pi)) * width).astype(int) % width
    towards, arriving = _parts(light)
    cosine = np.maximum(normal[is_ball].astype(np.float32) @ towards.T, 0)
    grey = np.zeros((size, size, 3))
    grey[is_ball] = GREY / np.pi * cosine @ arriving
    pair = np.concatenate([np.where(is_ball[..., None], light[row, column], 0), grey], axis=1)
    return srgb_from_linear(pair.clip(0, 1)).astype(np.float32)


def _parts(light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean unit directions, (P, 3), and radiance × solid angle, (P, 3), of parts of the panorama."""
    height, width = light.shape[:2]
    parts = min(_ROWS, height, width // 2)
    rows, columns = (np.arange(count) * length // count for count, length in ((parts, height), (2 * parts, width)))
    solid = solid_angles(height, width)[..., None]
    towards, arriving = (
        np.add.reduceat(np.add.reduceat(values * solid, rows), columns, axis=1).reshape(-1, 3)
        for values in (directions(height, width), light)
    )
    unit = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    return unit.astype(np.float32), arriving.astype(np.float32)


def inside(size: int) -> np.ndarray:
    """Return which pixels of a ball's picture show it, (size, size) bool."""
    right, up = _plane(size)
    return right**2 + up**2 < 1


def _plane(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the pixels to the right and up from a ball's centre, in radii."""
    place = (np.arange(size) + 0.5) / size * 2 * _MARGIN - _MARGIN
    right, up = np.meshgrid(place, -place)
    return right, up
