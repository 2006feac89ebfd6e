"""JPEG: the frame header. (ITU T.81, B.2.)"""

from __future__ import annotations

import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

#: Frame headers, and those of progressive pictures, which are decoded as a whole.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN = b"\xff\xda"
#: Each scan of a progressive picture passes over all of it. Encoders write about ten.
_MAX_SCANS = 200
_BLOCK = 2**20
#: Markers before the frame header. Photos have dozens.
_MAX_MARKERS = 10_000


def read(stream: BinaryIO) -> ImageHeader:
    """Read the header."""
    stream.seek(2)
    for _ in range(_MAX_MARKERS):
        marker, code = exactly(stream, 2)
        if marker != 0xFF:
            raise Malformed("its header is damaged")
        if code == 0xFF:  # padding
            stream.seek(-1, 1)
            continue
        if code in (0xD9, 0xDA):
            raise Malformed("it has no frame header")
        if code == 0x01 or 0xD0 <= code <= 0xD8:  # without content
            continue
        (length,) = struct.unpack(">H", exactly(stream, 2))
        if length < 2:
            raise Malformed("its header is damaged")
        if code in _FRAMES:
            return _frame(stream, code)
        stream.seek(length - 2, 1)
    raise Malformed("it has no frame header")


def _frame(stream: BinaryIO, code: int) -> ImageHeader:
    height, width, channels = struct.unpack(">xHHB", exactly(stream, 6))
    if not height or not width:
        raise Malformed(f"it is {width} × {height} pixels")
    coefficients = 2 * width * height * channels if code in _PROGRESSIVE else 0
    if coefficients and _scans(stream) > _MAX_SCANS:
        raise Malformed(f"it has more than {_MAX_SCANS} scans")
    return ImageHeader("jpeg", width, height, width * height * channels, width * height * channels + coefficients)


def _scans(stream: BinaryIO) -> int:
    count, last = 0, b""
    while count <= _MAX_SCANS and (block := stream.read(_BLOCK)):
        count += (last + block).count(_SCAN)
        last = block[-1:]
    return count
