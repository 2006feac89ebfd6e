"""PNG: the size, and the compressed chunks of text and colour profile. (PNG 3rd edition, 11.)"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

#: Colour type → channels.
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_COMPRESSED = {b"zTXt", b"iTXt", b"iCCP"}
#: Deflate makes at most so many bytes of one, and libpng keeps at most so many of a chunk.
_DEFLATE, _CHUNK_BYTES = 1032, 8_000_000
_MAX_CHUNKS = 1_000_000


def read(stream: BinaryIO) -> ImageHeader:
    """Read the header."""
    length, kind, width, height, depth, colour = struct.unpack(">8xI4sIIBB", exactly(stream, 26))
    if kind != b"IHDR" or length != 13 or colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise Malformed("its header is damaged")
    channels = _CHANNELS[colour]
    # All of it at once: what is interlaced, and whatever Blender reads.
    stored = width * height * channels * (2 if depth == 16 else 1)
    return ImageHeader("png", width, height, channels * width * height, stored + _metadata(stream))


def _metadata(stream: BinaryIO) -> int:
    """Return how many bytes text and colour profile can take, of the chunks before and after the pixels."""
    end, at, total = stream.seek(0, os.SEEK_END), 8, 0
    for _ in range(_MAX_CHUNKS):
        stream.seek(at)
        start = stream.read(8)
        if len(start) < 8:  # cut short: the decoder reports it
            return total
        length, kind = struct.unpack(">I4s", start)
        if kind in _COMPRESSED:
            total += min(length * _DEFLATE, _CHUNK_BYTES)
        elif kind == b"tEXt":
            total += length
        at += 12 + length
        if kind == b"IEND" or at >= end:
            return total
    raise Malformed("it has too many chunks")
