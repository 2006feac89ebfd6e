"""OpenEXR: parts, channels, windows, tiles. (OpenEXR file layout, version 2.)"""

from __future__ import annotations

import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed

_MAX_HEADER = 2**20
#: Flags of the version field.
_TILED, _DEEP, _MULTIPART = 0x200, 0x800, 0x1000
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
    head = _Bytes(stream.read(_MAX_HEADER))
    _, version = head.unpack("<II")
    if version & _DEEP:
        raise Malformed("it is a deep image")
    parts = []
    while True:
        attributes = head.attributes()
        if not attributes:
            break
        parts.append(_part(attributes, bool(version & _TILED)))
        if not version & _MULTIPART:
            break
    if not parts:
        raise Malformed("it has no parts")
    widths, heights, samples, buffers = zip(*parts, strict=True)
    return ImageHeader("openexr", max(widths), max(heights), sum(samples), sum(buffers))


def _part(attributes: dict[bytes, bytes], tiled: bool) -> tuple[int, int, int, int]:
    """Return width, height, samples and buffers of a part."""
    missing = {b"channels", b"compression", b"dataWindow", b"displayWindow"} - attributes.keys()
    if missing:
        raise Malformed("its header lacks " + ", ".join(sorted(name.decode() for name in missing)))
    if attributes.get(b"type", b"").startswith(b"deep"):
        raise Malformed("it is a deep image")
    sizes = [_size(attributes[name]) for name in (b"dataWindow", b"displayWindow")]
    width, height = sizes[0]
    count, pixel_bytes = _channels(attributes[b"channels"])
    if attributes.get(b"type", b"").startswith(b"tiledimage") or (b"type" not in attributes and tiled):
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
    return max(width, sizes[1][0]), max(height, sizes[1][1]), width * height * count, buffers


def _size(window: bytes) -> tuple[int, int]:
    left, top, right, bottom = struct.unpack("<iiii", window)
    return right - left + 1, bottom - top + 1


def _channels(content: bytes) -> tuple[int, int]:
    """Return the number of channels, and the bytes of a pixel."""
    data, count, pixel_bytes = _Bytes(content), 0, 0
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


class _Bytes:
    """A header that is read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise Malformed("its header is cut short, or too long")
        self._at += count
        return found

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> bytes:
        """Return the text up to the next zero."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise Malformed("its header is cut short, or too long")
        return self.take(end - self._at + 1)[:-1]

    def attributes(self) -> dict[bytes, bytes]:
        """Return name → content of the attributes of a part; the first of each name counts."""
        found: dict[bytes, bytes] = {}
        while name := self.text():
            self.text()
            (size,) = self.unpack("<i")
            if size < 0:
                raise Malformed("its header is damaged")
            if name in found:
                raise Malformed(f"its header has {name[:32].decode(errors='replace')} twice")
            found[name] = self.take(size)
        return found
