"""Seam metrics of a panorama: the step across 0°/360° and pinching at the poles, relative to its interior.

Arrays are (H, W, C), of pixels or of latents, whole panoramas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shared.imaging.sphere import solid_angles


@dataclass(frozen=True)
class Seam:
    """The step across 0°/360°, compared with the steps between neighbouring columns elsewhere."""

    #: The step across 0°/360° divided by the median step; about 1 where there is no seam.
    ratio: float
    #: Share of the steps elsewhere that are smaller, in [0, 1]; 1 if no other step is as large.
    percentile: float


def seam(panorama: np.ndarray) -> Seam:
    """Measure the seam. Steps are mean absolute differences of neighbouring columns, weighted by solid angle."""
    x = panorama.astype(np.float64)
    step = np.abs(np.roll(x, -1, axis=1) - x).mean(
        axis=-1
    )  # (H, W): from each column to the next one, the last to the first
    step = np.average(step, axis=0, weights=solid_angles(*x.shape[:2])[:, 0])
    *interior, across = step
    return Seam(across / max(float(np.median(interior)), np.finfo(np.float32).tiny), float(np.mean(interior < across)))


def poles(panorama: np.ndarray) -> tuple[float, float]:
    """Return (top, bottom): standard deviation of the colours of the end row, relative to that around the equator.

    An end row is a circle one pixel wide; without pinching it is nearly uniform: well below 1.
    """
    variance = panorama.astype(np.float64).var(axis=1).mean(axis=-1)  # (H,)
    quarter = len(variance) // 4
    usual = max(float(np.sqrt(variance[quarter : len(variance) - quarter].mean())), np.finfo(np.float32).tiny)
    return float(np.sqrt(variance[0]) / usual), float(np.sqrt(variance[-1]) / usual)
