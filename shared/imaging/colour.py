"""Linear Rec.709 light, its luminance, and sRGB."""

from __future__ import annotations

import numpy as np

#: Relative luminance of linear Rec.709.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, extended to negative values by symmetry; same shape and type."""
    light = np.abs(linear)
    return np.copysign(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055), linear)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Inverse of `srgb_from_linear`; same shape and type."""
    shown = np.abs(srgb)
    return np.copysign(np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4), srgb)
