"""OpenEXR: parts, channels, windows, tiles. (OpenEXR file layout, version 2.)"""

from __future__ import annotations

import io
import math
import os
import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

#: Bytes of the headers of all parts: Cryptomatte's names of 45,000 objects take a megabyte. What is kept of them has at
#: most so many bytes each, and names have less than 256.
_MAX_HEADER, _MAX_KEPT, _MAX_NAME = 2**26, 2**20, 256
#: Attributes of all parts; files have about twenty for each part.
_MAX_ATTRIBUTES = 100_000
#: Attributes that are read; others are passed over.
_REQUIRED = {b"channels", b"compression", b"dataWindow", b"displayWindow"}
_KEPT = {*_REQUIRED, b"tiles", b"type"}
#: Flags of the version field.
_TILED, _DEEP, _MULTIPART = 0x200, 0x800, 0x1000
#: Types of parts, without and with tiles.
_KINDS = (b"scanlineimage", b"tiledimage")
#: Bytes of the pixel types uint, half and float.
_TYPE_BYTES = {0: 4, 1: 2, 2: 4}
#: Compression → rows in a block (none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB, HTJ2K256, HTJ2K32).
_BLOCK_ROWS = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256, 256, 32)
#: Bytes in the table of places for each block or tile; mipmaps and ripmaps together have up to four times as many.
_OFFSET, _LEVELS = 8, 4
#: Blocks that are decoded at the same time, about.
_AT_ONCE = 2
_INT_MAX = 2**31 - 1


def read(stream: BinaryIO) -> ImageHeader:
    """Read the header."""
    head = _Fields(stream)
    _, version = head.unpack("<II")
    is_tiled, is_multipart = bool(version & _TILED), bool(version & _MULTIPART)
    if version & _DEEP:
        raise Malformed("it is a deep image")
    if is_tiled and is_multipart:
        raise Malformed("its header contradicts itself")
    parts = []
    while True:
        attributes = head.attributes()
        if not attributes:
            break
        parts.append(_part(attributes, None if is_multipart else is_tiled))
        if not is_multipart:
            break
    if not parts:
        raise Malformed("it has no parts")
    shown, stored, samples, buffers = zip(*parts, strict=True)
    width, height = (max(sides) for sides in zip(*stored, *shown, strict=True))
    largest = max(stored, key=math.prod)
    return ImageHeader("openexr", width, height, sum(samples), sum(buffers), largest)


def _part(attributes: dict[bytes, bytes], tiled: bool | None) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """Return the sizes of display and data window, samples and buffers of a part.

    `tiled`: what the flag of a file with one part says.
    """
    missing = _REQUIRED - attributes.keys()
    if missing:
        raise Malformed("its header lacks " + ", ".join(sorted(name.decode() for name in missing)))
    # Decoders go by the flag where there is one part, and by the type where there are several.
    kind = attributes.get(b"type", b"").rstrip(b"\0") or (tiled is not None and _KINDS[tiled])
    if kind in (b"deepscanline", b"deeptile"):
        raise Malformed("it is a deep image")
    if kind not in _KINDS:
        raise Malformed("the type of a part is missing or unknown")
    if tiled is not None and kind != _KINDS[tiled]:
        raise Malformed("its header contradicts itself")
    sizes = [_size(attributes[name]) for name in (b"dataWindow", b"displayWindow")]
    width, height = sizes[0]
    count, pixel_bytes = _channels(attributes[b"channels"])
    if kind == b"tiledimage":
        if len(attributes.get(b"tiles", b"")) != 9:
            raise Malformed("its tiles are damaged")
        tile_width, tile_height, _ = struct.unpack("<IIB", attributes[b"tiles"])
        if not (0 < tile_width <= _INT_MAX and 0 < tile_height <= _INT_MAX):
            raise Malformed("its tiles are damaged")
        across, down = -(-width // tile_width), -(-height // tile_height)
        # A row of tiles, whole even where they extend beyond the picture, and all channels as floats.
        buffers = across * tile_width * tile_height * max(pixel_bytes, 4 * count) + across * down * _LEVELS * _OFFSET
    else:
        compression = attributes[b"compression"][:1]
        if not compression or compression[0] >= len(_BLOCK_ROWS):
            raise Malformed("its compression is unknown")
        buffers = _AT_ONCE * width * _BLOCK_ROWS[compression[0]] * pixel_bytes + height * _OFFSET
    # Of the display window, nothing is allocated but by programs that show it: its sides are limited all the same.
    return sizes[1], sizes[0], width * height * count, buffers


def _size(window: bytes) -> tuple[int, int]:
    left, top, right, bottom = struct.unpack("<iiii", window)
    return right - left + 1, bottom - top + 1


def _channels(content: bytes) -> tuple[int, int]:
    """Return the number of channels, and the bytes of a pixel."""
    data, count, pixel_bytes = _Fields(io.BytesIO(content)), 0, 0
    while name := data.text():
        kind, _, sampling_x, sampling_y = data.unpack("<IIII")
        try:
            name.decode()
        except UnicodeDecodeError:
            raise Malformed("a channel's name is not UTF-8") from None
        if kind not in _TYPE_BYTES or not (sampling_x and sampling_y):
            raise Malformed("its channels are damaged")
        count, pixel_bytes = count + 1, pixel_bytes + _TYPE_BYTES[kind]
    if not count:
        raise Malformed("it has no channels")
    return count, pixel_bytes


class _Fields:
    """Fields that are read from a stream, from where it stands."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._attributes = 0

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, exactly(self._stream, struct.calcsize(form)))

    def text(self) -> bytes:
        """Return the text up to the next zero."""
        start = self._stream.read(_MAX_NAME)
        text, zero, _ = start.partition(b"\0")
        if not zero:
            raise Malformed("its header is cut short, or a name in it is too long")
        self._stream.seek(len(text) + 1 - len(start), os.SEEK_CUR)
        return text

    def attributes(self) -> dict[bytes, bytes]:
        """Return name → content of those attributes of a part that are in _KEPT."""
        names: set[bytes] = set()
        kept: dict[bytes, bytes] = {}
        while name := self.text():
            self._attributes += 1
            self.text()
            (size,) = self.unpack("<i")
            if size < 0:
                raise Malformed("its header is damaged")
            if name in names:
                raise Malformed(f"its header has {name[:32].decode(errors='replace')} twice")
            if self._attributes > _MAX_ATTRIBUTES or self._stream.tell() + size > _MAX_HEADER:
                raise Malformed("its header is too long")
            names.add(name)
            if name not in _KEPT:
                self._stream.seek(size, os.SEEK_CUR)
            elif size > _MAX_KEPT:
                raise Malformed("its header is too long")
            else:
                kept[name] = exactly(self._stream, size)
        return kept
