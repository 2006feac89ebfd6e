"""Image datablocks with a packed file, so that they save and reload without loss.

Files of images are packed byte for byte. Arrays are packed as float32 EXR by Blender, as data, since it writes the
right values only for these and for the working space. (Measured on 4.3, 4.5 and 5.2.)
"""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.protocol.errors import PanoramaError
from ..capture import colour_management
from ..capture.colour_management import ColorSpace


def create_from_file(name: str, data: np.ndarray, colorspace: ColorSpace) -> bpy.types.Image:
    """Create a packed image from the content of an image file, (bytes,) uint8, whose values are in `colorspace`.

    Raise PanoramaError if it isn't an image.
    """
    colour_management.check()  # nothing is left where there is no such colour space
    image = bpy.data.images.new(name, 1, 1)
    image.pack(data=data.tobytes(), data_len=data.nbytes)
    image.source = "FILE"
    colour_management.assign(image, colorspace)
    if not image.size[0]:
        bpy.data.images.remove(image)
        raise PanoramaError(f"The image {name!r} is damaged.", "Make it again.")
    return image


def create_float(name: str, array: np.ndarray, colorspace: ColorSpace) -> bpy.types.Image:
    """Create a packed float32 image from (H, W, 1 or 3) values in `colorspace`, top row first."""
    colour_management.check()
    height, width, _ = array.shape
    image = bpy.data.images.new(name, width, height, alpha=False, float_buffer=True, is_data=True)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = array[::-1]
    image.pixels.foreach_set(rgba.ravel())
    image.pack()
    colour_management.assign(image, colorspace)  # what was packed as data is read in it from now on
    return image


def copy_packed(image: bpy.types.Image) -> bpy.types.Image:
    """Create a packed copy of the image, its file byte for byte; `image` itself is unchanged."""
    copy = image.copy()
    if not copy.packed_file:
        copy.pack()
    return copy
