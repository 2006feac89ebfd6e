"""How well a panorama closes: the step where 0° meets 360°, and the pinch at the poles, both against its own interior.

Arrays are (H, W, C), of pixels or of latents, whole panoramas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shared.imaging.sphere import solid_angles


@dataclass(frozen=True)
class Seam:
    """The step across the wrap among the steps between neighbouring columns elsewhere."""

    #: The step across the wrap divided by the median step; about 1 where there is no seam.
    ratio: float
    #: Share of the steps elsewhere that are smaller, in [0, 1]; 1 where nothing in the picture changes as abruptly.
    percentile: float


def seam(panorama: np.ndarray) -> Seam:
    """Steps are mean absolute differences of neighbouring columns; each row counts by its solid angle."""
    x = panorama.astype(np.float64)
    step = np.abs(np.roll(x, -1, axis=1) - x).mean(
        axis=-1
    )  # (H, W): from each column to the next one, the last to the first
    step = np.average(step, axis=0, weights=solid_angles(*x.shape[:2])[:, 0])
    *interior, across = step
    return Seam(across / max(float(np.median(interior)), np.finfo(np.float32).tiny), float(np.mean(interior < across)))


def poles(panorama: np.ndarray) -> tuple[float, float]:
    """(top, bottom): how much the colours of an end row vary, as a share of how much those around the equator do.

    An end row is a circle of one pixel's width, so where nothing pinches it is nearly one colour: well below 1.
    """
    variance = panorama.astype(np.float64).var(axis=1).mean(axis=-1)  # (H,)
    quarter = len(variance) // 4
    usual = max(float(np.sqrt(variance[quarter : len(variance) - quarter].mean())), np.finfo(np.float32).tiny)
    return float(np.sqrt(variance[0]) / usual), float(np.sqrt(variance[-1]) / usual)
