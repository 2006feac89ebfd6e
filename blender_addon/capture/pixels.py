"""Blender image → array.

Blender stores the bottom row first and always four channels. Byte images hold the values of the file; float images
(EXR, HDR, 16-bit PNG …) are converted to linear Rec.709 on loading, from the colour space set for the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import bpy
import numpy as np

from ...shared.engines import MAX_PANORAMA_WIDTH
from ...shared.imaging.colour import srgb_from_linear
from ...shared.protocol.errors import PanoramaError


class Pixels(NamedTuple):
    """Pixels and their encoding, as in PerceiveRequest."""

    #: (H, W, 3) float32, top row first.
    pixels: np.ndarray
    #: "linear": linear Rec.709 light. "srgb": display-referred.
    encoding: Literal["linear", "srgb"]


def raw(image: bpy.types.Image) -> np.ndarray:
    """Return `image.pixels` as (H, W, 4) float32, top row first.

    Raise PanoramaError if the image has no data (missing or damaged file) or is too wide.
    """
    width, height = image.size  # loads the file
    if not (width and height):
        where = f" ({bpy.path.abspath(image.filepath)})" if image.filepath else ""
        raise PanoramaError(
            f"The image {image.name!r}{where} can't be read: its file is missing, damaged or not an image.",
            "Reload it, or select another one.",
        )
    if width > MAX_PANORAMA_WIDTH:
        raise PanoramaError(
            f"The image {image.name!r} is {width} px wide.", f"Scale it to at most {MAX_PANORAMA_WIDTH} px."
        )
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    return flat.reshape(height, width, image.channels)[::-1]


def read(image: bpy.types.Image) -> Pixels:
    """Read a colour image: sRGB-encoded if its colour space is sRGB, else linear.

    Raise PanoramaError if it can't be read or has transparent pixels.
    """
    colours, alpha = read_with_alpha(image)
    if alpha is not None:
        raise PanoramaError(
            f"The image {image.name!r} has transparent pixels.",
            "Save it without an alpha channel, or fill the transparent areas.",
        )
    return colours


def read_file(path: Path) -> Pixels:
    """Read an image file as `read` does. Raise PanoramaError."""
    image = bpy.data.images.load(str(path))
    try:
        return read(image)
    finally:
        bpy.data.images.remove(image)


def read_with_alpha(image: bpy.types.Image) -> tuple[Pixels, np.ndarray | None]:
    """Read a colour image as `read` does, and its alpha, (H, W) float32; None if all of it is 1."""
    array = raw(image)
    if array.shape[-1] < 3:
        raise PanoramaError(f"The image {image.name!r} has no colour channels.", "Use an RGB image.")
    alpha = array[..., 3] if array.shape[-1] == 4 and not np.all(array[..., 3] == 1) else None
    colour = np.ascontiguousarray(array[..., :3])
    if image.colorspace_settings.name != "sRGB" or colour.max() > 1.001:
        return Pixels(colour, "linear"), alpha
    # Blender's conversion to linear and back turns the maximum of a 16-bit file into 1.00001.
    return Pixels(np.minimum(srgb_from_linear(colour), 1) if image.is_float else colour, "srgb"), alpha


def display(colours: Pixels) -> np.ndarray:
    """Return the pixels sRGB-encoded in [0, 1], (H, W, 3) float32; brighter light is clipped."""
    return colours.pixels if colours.encoding == "srgb" else srgb_from_linear(colours.pixels.clip(0, 1))
