"""Pictures of a panorama's light: a mirror ball and a grey ball under it, and where it can be trusted."""

from __future__ import annotations

import numpy as np

from ...shared.imaging.colour import linear_from_srgb, srgb_from_linear
from ...shared.imaging.sphere import directions, solid_angles
from ..io import panoramas
from .solve import Solution, nearest

#: Reflectance of the grey ball; rows of the light that shines on it.
GREY, _ROWS = 0.5, 24
#: Logarithm of a factor of two: the ends of the colours.
_END = np.log(2)


def balls(light: np.ndarray, size: int = 256) -> np.ndarray:
    """Return a mirror ball and a grey ball, seen from −X, under a panorama (H, W, 3): (size, 2 · size, 3) sRGB.

    The exposure is that of the panorama: white is white.
    """
    place = (np.arange(size) + 0.5) / size * 2.1 - 1.05
    y, z = np.meshgrid(-place, -place)  # +Y is left of +X
    inside = y**2 + z**2 < 1
    normal = np.stack([-np.sqrt(np.maximum(1 - y**2 - z**2, 0)), y, z], axis=-1)  # (S, S, 3)
    mirrored = np.array([1.0, 0, 0]) - 2 * normal[..., :1] * normal
    height, width = light.shape[:2]
    row = np.minimum((np.arccos(mirrored[..., 2].clip(-1, 1)) / np.pi * height).astype(int), height - 1)
    column = ((0.5 - np.arctan2(mirrored[..., 1], mirrored[..., 0]) / (2 * np.pi)) * width).astype(int) % width
    small = panoramas.resize(light, _ROWS) * solid_angles(_ROWS, 2 * _ROWS)[..., None]
    cosine = np.maximum(normal[inside] @ directions(_ROWS, 2 * _ROWS).reshape(-1, 3).T, 0)
    grey = np.zeros((size, size, 3))
    grey[inside] = GREY / np.pi * cosine @ small.reshape(-1, 3)
    pair = np.concatenate([np.where(inside[..., None], light[row, column], 0), grey], axis=1)
    return srgb_from_linear(pair.clip(0, 1)).astype(np.float32)


def trust(solution: Solution, size: int = 256) -> np.ndarray:
    """Return solved / measured irradiance in false colours, (size, 2 · size, 3) sRGB.

    Blue: a point is lit half as much as was measured, or less; red: twice, or more; white: alike; dark: not measured.
    """
    value = nearest(solution.residual, size)
    share = np.nan_to_num(value / _END).clip(-1, 1)[..., None]
    colour = 1 - np.maximum(share, 0) * [0, 1, 1] - np.maximum(-share, 0) * [1, 1, 0]
    return np.where(np.isnan(value)[..., None], 0.15, colour).astype(np.float32)


def sheet(ldr: np.ndarray, solution: Solution, size: int = 256) -> np.ndarray:
    """Return the picture, its trust, and the balls under its solved and its plain light, (2 · size, 4 · size, 3)."""
    top = [panoramas.resize(ldr, size).clip(0, 1), trust(solution, size)]
    bottom = [balls(solution.light, size), balls(linear_from_srgb(ldr), size)]
    return np.concatenate([np.concatenate(row, axis=1) for row in (top, bottom)])
