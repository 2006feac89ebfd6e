"""Image → reference picture with alpha."""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.imaging.colour import srgb_from_linear
from ...shared.imaging.exif import upright
from ..capture import picture, picture_file


def read(image: bpy.types.Image) -> np.ndarray:
    """Return an image upright, as sRGB with alpha that is not premultiplied, (H, W, 4) uint8.

    Raise PanoramaError if it can't be read.
    """
    reading = picture_file.read_image(image, is_panorama=False)
    colour = reading.colours.pixels
    alpha = np.ones_like(colour[..., :1]) if reading.alpha is None else reading.alpha[..., None]
    if reading.colours.encoding == "linear" and reading.alpha is not None:
        colour = colour / np.maximum(alpha, 1e-6)  # files of floats store it premultiplied
    if reading.colours.encoding == "linear":
        colour = srgb_from_linear(colour.clip(0, 1))
    values = np.nan_to_num(np.concatenate([colour, alpha], axis=-1)).clip(0, 1)
    if reading.header is None:  # Blender doesn't turn what it displays
        values = upright(values, picture.read_exif(image).orientation)
    return np.ascontiguousarray(np.round(values * 255).astype(np.uint8))
