"""Arrays → packed images that save and reload without loss.

Distance, normals and HDR light are packed as float32 EXR, display values as 16-bit PNG. Blender's `pack()` keeps
float32 for images in a linear space, but writes wrong values for float images in sRGB, so the PNG is encoded here.
(Measured on 4.3, 4.5 and 5.2.)
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import bpy
import numpy as np

ColorSpace = Literal["Non-Color", "Linear Rec.709", "sRGB"]


def _chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def _png16(array: np.ndarray) -> bytes:
    """Encode (H, W, 1 or 3) values in [0, 1] as a 16-bit PNG file (W3C PNG, third edition)."""
    height, width, channels = array.shape
    samples = np.rint(np.clip(array, 0, 1) * 65535).astype(">u2").reshape(height, -1)
    rows = np.zeros((height, 1 + samples.shape[1] * 2), np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = samples.view(np.uint8)
    colour_type = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 4)),
            _chunk(b"IEND", b""),
        ]
    )


def create_float(name: str, array: np.ndarray, colorspace: ColorSpace) -> bpy.types.Image:
    """Create a packed float32 image from (H, W, 1 or 3) values, top row first, in a linear `colorspace`."""
    height, width, _ = array.shape
    image = bpy.data.images.new(name, width, height, alpha=False, float_buffer=True, is_data=True)
    image.colorspace_settings.name = colorspace
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = array[::-1]
    image.pixels.foreach_set(rgba.ravel())
    image.pack()
    return image


def create_16bit(name: str, array: np.ndarray, colorspace: ColorSpace) -> bpy.types.Image:
    """Create a packed 16-bit image from (H, W, 1 or 3) values in [0, 1], encoded in `colorspace`, top row first."""
    data = _png16(array)
    image = bpy.data.images.new(name, 1, 1)
    image.pack(data=data, data_len=len(data))
    image.source = "FILE"
    image.colorspace_settings.name = colorspace
    return image


def copy_packed(name: str, image: bpy.types.Image) -> bpy.types.Image:
    """Create a packed copy of the image, its file byte for byte; `image` itself is unchanged."""
    copy = image.copy()
    copy.name = name
    if not copy.packed_file:
        copy.pack()
    return copy
