"""Pictures of a panorama's light: a mirror ball and a grey ball under it, and where it can be trusted."""

from __future__ import annotations

import numpy as np

from ...shared.imaging import light_balls
from ...shared.imaging.colour import linear_from_srgb
from ..io import panoramas
from .solve import Solution, nearest

#: Logarithm of a factor of two: the ends of the colours.
_END = np.log(2)


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
    bottom = [light_balls.balls(solution.light, size), light_balls.balls(linear_from_srgb(ldr), size)]
    return np.concatenate([np.concatenate(row, axis=1) for row in (top, bottom)])
