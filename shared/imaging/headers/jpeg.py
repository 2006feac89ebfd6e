"""JPEG: the frame header, and the first scan. (ITU T.81, B.2.)"""

from __future__ import annotations

import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

#: Frame headers, and those of progressive pictures.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN = 0xDA
#: Markers without content: TEM and RST.
_EMPTY = {0x01, *range(0xD0, 0xD8)}
#: Other segments that decoders pass over by their length: tables, DNL, restart interval, APP and comments. After
#: anything else they stop, or look for the next marker in what follows.
_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
#: Each scan of a picture that is decoded as a whole passes over all of it. Encoders write about ten.
_MAX_SCANS = 200
_BLOCK = 2**20
#: Markers before the first scan. Photos have dozens.
_MAX_MARKERS = 10_000


def read(stream: BinaryIO) -> ImageHeader:
    """Read the header."""
    stream.seek(2)
    code = _segment(stream, _FRAMES)
    height, width, channels = struct.unpack(">xHHB", exactly(stream, 6))
    if not height or not width:
        raise Malformed(f"it is {width} × {height} pixels")
    stream.seek(3 * channels, 1)
    _segment(stream, {_SCAN})
    (in_scan,) = exactly(stream, 1)
    samples, coefficients = width * height * channels, 0
    if code in _PROGRESSIVE or in_scan < channels:  # in several scans: decoded as a whole
        coefficients = 2 * samples
        if _scans(stream) > _MAX_SCANS:
            raise Malformed(f"it has more than {_MAX_SCANS} scans")
    return ImageHeader("jpeg", width, height, samples, samples + coefficients)


def _segment(stream: BinaryIO, wanted: set[int]) -> int:
    """Read on to the content of the next segment with one of the markers `wanted`, and return its marker."""
    for _ in range(_MAX_MARKERS):
        marker, code = exactly(stream, 2)
        if marker == 0xFF == code:  # padding
            stream.seek(-1, 1)
            continue
        if marker == 0xFF and code in _EMPTY:
            continue
        if marker != 0xFF or code not in wanted | _SEGMENTS:
            raise Malformed("its header is damaged")
        (length,) = struct.unpack(">H", exactly(stream, 2))
        if length < 2:
            raise Malformed("its header is damaged")
        if code in wanted:
            return code
        stream.seek(length - 2, 1)
    raise Malformed("it has too many segments before its pixels")


def _scans(stream: BinaryIO) -> int:
    """Return the number of scans, with the one that has begun."""
    count, last = 1, b""
    while count <= _MAX_SCANS and (block := stream.read(_BLOCK)):
        count += (last + block).count(bytes((0xFF, _SCAN)))
        last = block[-1:]
    return count
