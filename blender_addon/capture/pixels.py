"""Blender image → array.

Blender stores the bottom row first and always four channels. Byte images hold the values of the file; float images
(EXR, HDR, 16-bit PNG …) are converted to the working space on loading, from the colour space set for the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import bpy
import numpy as np

from ...shared.engines import MAX_PANORAMA_WIDTH
from ...shared.imaging import headers
from ...shared.imaging.colour import linear_from_srgb, srgb_from_linear
from ...shared.imaging.shrink import block_means
from ...shared.protocol.errors import PanoramaError
from . import colour_management, image_limits

#: Rows of the result that are averaged together.
_ROWS = 32
#: Of all pixels as floats: beyond this, Blender first halves pictures of 8 bits, which rounds them once more.
_LARGE_BYTES = 2**30


class Pixels(NamedTuple):
    """Pixels and their encoding, as in PerceiveRequest."""

    #: (H, W, 3) float32, top row first.
    pixels: np.ndarray
    #: "linear": linear Rec.709 light. "srgb": display-referred.
    encoding: Literal["linear", "srgb"]


def raw(image: bpy.types.Image, side: int = 1, *, in_place: bool = False) -> np.ndarray:
    """Return `image.pixels` as (H, W, 4) float32, top row first, averaged over blocks of side × side pixels.

    Blender gives all pixels of an image at once or none. So it averages floats itself, to a hundredth of a pixel, and
    halves very large pictures of 8 bits: of a copy, or `in_place`, which leaves `image` smaller.
    Raise PanoramaError if the image has no data (missing or damaged file) or is too large (`image_limits.check`).
    """
    image_limits.check(image)
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
    headers.check_pixels(width, height, image.name)
    if side > 1 and (image.is_float or (side % 2 == 0 and 16 * width * height > _LARGE_BYTES)):
        by_blender = side if image.is_float else 2
        with _scaled(image, by_blender, in_place) as scaled:
            return raw(scaled, side // by_blender)
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    whole = flat.reshape(height, width, image.channels)[::-1]
    if side == 1:
        return whole
    means = np.empty((height // side, width // side, image.channels), np.float32)
    for top in range(0, len(means), _ROWS):
        means[top : top + _ROWS] = block_means(whole[top * side : (top + _ROWS) * side], side)
    return means


@contextmanager
def _scaled(image: bpy.types.Image, side: int, in_place: bool) -> Iterator[bpy.types.Image]:
    """Give the image, or a copy that is removed in the end, scaled down by Blender."""
    width, height = (length // side for length in image.size)
    scaled = image if in_place else image.copy()
    try:
        if not in_place and image.source == "FILE" and not image.is_dirty:
            image.buffers_free()  # read again when needed; both at once would take twice the memory
        scaled.scale(width, height)
        yield scaled
    finally:
        if not in_place:
            bpy.data.images.remove(scaled)


def read(image: bpy.types.Image) -> Pixels:
    """Read a colour image as Blender displays it: sRGB-encoded if its colour space is sRGB, else linear.

    Raise PanoramaError if it can't be read or has transparent pixels.
    """
    colours, alpha = read_with_alpha(image)
    if alpha is not None:
        raise PanoramaError(
            f"The image {image.name!r} has transparent pixels.",
            "Save it without an alpha channel, or fill the transparent areas.",
        )
    return colours


def read_light(image: bpy.types.Image) -> np.ndarray:
    """Read a colour image as linear light, (H, W, 3) float32.

    Raise PanoramaError as `read` does, and for infinite or NaN pixels.
    """
    colours = read(image)
    light = linear_from_srgb(colours.pixels) if colours.encoding == "srgb" else colours.pixels
    if not np.isfinite(light).all():
        raise PanoramaError(
            f"The image {image.name!r} has infinite or NaN pixels.", "Repair them, or choose another one."
        )
    return light


def read_render(path: Path) -> tuple[Pixels, np.ndarray]:
    """Read an EXR that Blender has just rendered, whose values are in the working space: linear Rec.709, and alpha.

    Alpha is (H, W) float32, 1 where the file has none.
    """
    image = bpy.data.images.load(str(path))
    try:
        image.colorspace_settings.is_data = True
        values = raw(image)
        alpha = np.ascontiguousarray(values[..., 3]) if values.shape[-1] == 4 else np.ones(values.shape[:2], np.float32)
        return Pixels(colour_management.rec709(np.ascontiguousarray(values[..., :3])), "linear"), alpha
    finally:
        bpy.data.images.remove(image)


def read_with_alpha(image: bpy.types.Image, side: int = 1) -> tuple[Pixels, np.ndarray | None]:
    """Read a colour image as `read` does, and its alpha, (H, W) float32; None if all of it is 1. `side` as in `raw`."""
    array = raw(image, side)
    if array.shape[-1] < 3:
        raise PanoramaError(f"The image {image.name!r} has no colour channels.", "Use an RGB image.")
    alpha = array[..., 3] if array.shape[-1] == 4 and not np.all(array[..., 3] == 1) else None
    colour = np.ascontiguousarray(array[..., :3])
    if colour_management.is_srgb(image) and not image.is_float:
        return Pixels(colour, "srgb"), alpha
    if not image.is_float and not image.colorspace_settings.is_data:
        colour = _decoded(colour, image.colorspace_settings.name)
    linear = colour_management.rec709(colour)
    if not colour_management.is_srgb(image) or linear.max() > 1.001:
        return Pixels(linear, "linear"), alpha
    # Blender's conversion to linear and back turns the maximum of a 16-bit file into 1.00001.
    return Pixels(np.minimum(srgb_from_linear(linear), 1), "srgb"), alpha


def _decoded(values: np.ndarray, colorspace: str) -> np.ndarray:
    """Convert (H, W, 3) values from a colour space of images to the working space, as Blender does on loading."""
    height, width, _ = values.shape
    image = bpy.data.images.new("Panoform", width, height, alpha=False, float_buffer=True, is_data=True)
    try:
        rgba = np.ones((height, width, 4), np.float32)
        rgba[..., :3] = values[::-1]
        image.pixels.foreach_set(rgba.ravel())
        image.pack()
        image.colorspace_settings.name = colorspace  # what was packed as data is read again, from this space
        return np.ascontiguousarray(raw(image)[..., :3])
    finally:
        bpy.data.images.remove(image)


def display(colours: Pixels) -> np.ndarray:
    """Return the pixels sRGB-encoded in [0, 1], (H, W, 3) float32; brighter light is clipped."""
    return colours.pixels if colours.encoding == "srgb" else srgb_from_linear(colours.pixels.clip(0, 1))
