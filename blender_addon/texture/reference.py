"""Image → reference picture with alpha."""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.imaging.colour import srgb_from_linear
from ...shared.imaging.exif import upright
from ..capture import picture, pixels


def read(image: bpy.types.Image) -> np.ndarray:
    """Return an image upright, as sRGB with alpha that is not premultiplied, (H, W, 4) uint8.

    Raise PanoramaError if it can't be read.
    """
    stored = pixels.raw(image)
    alpha = stored[..., 3:] if stored.shape[-1] == 4 else np.ones_like(stored[..., :1])
    colour = stored[..., :3] if stored.shape[-1] >= 3 else np.repeat(stored[..., :1], 3, axis=-1)
    if image.is_float:  # Blender keeps floats premultiplied and linear
        colour = colour / np.maximum(alpha, 1e-6)
    if image.is_float or image.colorspace_settings.name != "sRGB":
        colour = srgb_from_linear(colour.clip(0, 1))
    values = np.nan_to_num(np.concatenate([colour, alpha], axis=-1)).clip(0, 1)
    turned = upright(values, picture.read_exif(image).orientation)
    return np.ascontiguousarray(np.round(turned * 255).astype(np.uint8))
