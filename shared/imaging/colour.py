"""Luminance of linear Rec.709 colour, and the sRGB transfer function."""

from __future__ import annotations

import numpy as np

#: Weights of relative luminance for linear Rec.709.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Encode linear values as sRGB (IEC 61966-2-1, odd-symmetric for negative values); same shape and type."""
    light = np.abs(linear)
    return np.copysign(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055), linear)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Decode sRGB to linear values, the inverse of `srgb_from_linear`; same shape and type."""
    encoded = np.abs(srgb)
    return np.copysign(np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4), srgb)
