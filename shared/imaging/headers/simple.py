"""Formats whose header is a few fields: Radiance HDR, WebP, BMP, TGA."""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

_HDR_BYTES = 2**16
_HDR_SIZE = re.compile(rb"\n\n(?P<first>[-+][XY]) +(?P<rows>\d{1,9}) +[-+][XY] +(?P<columns>\d{1,9})\s")


def read_hdr(stream: BinaryIO) -> ImageHeader:
    """Read the header of a Radiance file. (Ward, "Real Pixels".)"""
    found = _HDR_SIZE.search(stream.read(_HDR_BYTES).replace(b"\r\n", b"\n"))
    if not found:
        raise Malformed("its header has no size")
    width, height = int(found["columns"]), int(found["rows"])
    return ImageHeader("hdr", width, height, 3 * width * height, 4 * width)


def read_webp(stream: BinaryIO) -> ImageHeader:
    """Read the header of a WebP file. (RFC 9649.)"""
    form, kind, content = struct.unpack("<8x4s4s4x10s", exactly(stream, 30))
    if form != b"WEBP":
        raise Malformed("it is not a WebP file")
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<6xHH", content))
    elif kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise Malformed("its header is damaged")
    # The decoder holds the file, the picture, and a copy of it.
    return ImageHeader("webp", width, height, 4 * width * height, stream.seek(0, os.SEEK_END) + 8 * width * height)


def read_bmp(stream: BinaryIO) -> ImageHeader:
    """Read the header of a Windows bitmap."""
    (size,) = struct.unpack("<14xI", exactly(stream, 18))
    if size == 12:
        width, height = struct.unpack("<HH", exactly(stream, 4))
    else:
        width, height = struct.unpack("<ii", exactly(stream, 8))
    width, height = abs(width), abs(height)
    return ImageHeader("bmp", width, height, 4 * width * height, stream.seek(0, os.SEEK_END) + 4 * width * height)


def read_tga(stream: BinaryIO) -> ImageHeader:
    """Read the header of a Targa file."""
    _, mapped, kind, width, height, bits = struct.unpack("<BBB5x4xHHB", exactly(stream, 17))
    if mapped > 1 or kind not in (1, 2, 3, 9, 10, 11) or bits not in (8, 15, 16, 24, 32):
        raise Malformed("it is not a TGA file")
    return ImageHeader("targa", width, height, 4 * width * height, 8 * width * height)
