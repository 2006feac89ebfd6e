"""Blender image → array.

Blender keeps the bottom row first and always four channels. Byte images hold what the file holds; float images (EXR,
HDR, 16-bit PNG …) were taken to linear Rec.709 when loaded, from whatever colour space the image is set to.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import bpy
import numpy as np

from ...shared.engines import MAX_PANORAMA_WIDTH
from ...shared.imaging.colour import srgb_from_linear
from ...shared.protocol.errors import PanoramaError


class Pixels(NamedTuple):
    """A picture and what its numbers are, as `messages.PerceiveRequest` has them."""

    #: (H, W, 3) float32, top row first.
    pixels: np.ndarray
    #: "linear": linear Rec.709 light. "srgb": display-referred.
    encoding: Literal["linear", "srgb"]


def raw(image: bpy.types.Image) -> np.ndarray:
    """The numbers of `image.pixels`, (H, W, 4) float32, top row first.

    Raises PanoramaError where the image has no data (missing or damaged file) or is too wide.
    """
    width, height = image.size  # asking for it loads the file
    if not (width and height):
        where = f" ({bpy.path.abspath(image.filepath)})" if image.filepath else ""
        raise PanoramaError(
            f"The image {image.name!r}{where} can't be read: its file is missing, damaged or no picture.",
            "Reload it, or choose another one.",
        )
    if width > MAX_PANORAMA_WIDTH:
        raise PanoramaError(
            f"The image {image.name!r} is {width} px wide.", f"Scale it to at most {MAX_PANORAMA_WIDTH} px."
        )
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    return flat.reshape(height, width, image.channels)[::-1]


def read(image: bpy.types.Image) -> Pixels:
    """A colour image as it is meant to be seen: an sRGB image sRGB-encoded, any other linear.

    Raises PanoramaError where there is nothing to read, or where pixels are transparent.
    """
    colours, alpha = read_with_alpha(image)
    if alpha is not None:
        raise PanoramaError(
            f"The image {image.name!r} has transparent pixels.", "Save it without an alpha channel, or fill them."
        )
    return colours


def read_with_alpha(image: bpy.types.Image) -> tuple[Pixels, np.ndarray | None]:
    """As `read`; and the alpha, (H, W) float32, where any of it is not 1."""
    array = raw(image)
    if array.shape[-1] < 3:
        raise PanoramaError(f"The image {image.name!r} has no colour channels.", "Use an RGB image.")
    alpha = array[..., 3] if array.shape[-1] == 4 and not np.all(array[..., 3] == 1) else None
    colour = np.ascontiguousarray(array[..., :3])
    if image.colorspace_settings.name != "sRGB" or colour.max() > 1.001:
        return Pixels(colour, "linear"), alpha
    # Blender's way to linear and back leaves 1.00001 where a 16-bit file has its largest value.
    return Pixels(np.minimum(srgb_from_linear(colour), 1) if image.is_float else colour, "srgb"), alpha


def display(colours: Pixels) -> np.ndarray:
    """The same sRGB-encoded in [0, 1], (H, W, 3) float32; light beyond white is clipped, as a camera clips it."""
    return colours.pixels if colours.encoding == "srgb" else srgb_from_linear(colours.pixels.clip(0, 1))
