"""The sRGB transfer function on tensors, for values of at least 0, as `shared/imaging/colour.py` has it on arrays."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_from_linear(linear: Tensor) -> Tensor:
    """Encode linear values as sRGB; same shape."""
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055  # without the infinite slope at 0
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def linear_from_srgb(srgb: Tensor) -> Tensor:
    """Decode sRGB to linear values; same shape."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
