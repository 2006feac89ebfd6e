"""TIFF and BigTIFF: size, channels, tiles and strips of all pages. (TIFF 6.0; BigTIFF by AWare Systems.)"""

from __future__ import annotations

import struct
from typing import BinaryIO

from .header import ImageHeader, Malformed, exactly

_WIDTH, _HEIGHT, _BITS, _CHANNELS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 277, 278, 322, 323
_STRIP_OFFSETS, _TILE_OFFSETS, _STRIP_BYTES, _COMPRESSION, _PLANAR = 273, 324, 279, 259, 284
#: Integer types → struct format.
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_PAGES, _MAX_TAGS = 256, 4096
#: Bytes for the place and the length of each tile or strip.
_TABLE = 16


def read(stream: BinaryIO) -> ImageHeader:
    """Read the header."""
    start = exactly(stream, 8)
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    if big:
        (at,) = struct.unpack(order + "Q", exactly(stream, 8))
    else:
        (at,) = struct.unpack(order + "I", start[4:])
    pages, seen = [], set()
    while at:
        if at in seen or len(seen) >= _MAX_PAGES:
            raise Malformed(f"it has more than {_MAX_PAGES} pages, or they form a loop")
        seen.add(at)
        tags, at = _directory(stream, at, order, big)
        pages.append(_page(tags))
    if not pages:
        raise Malformed("it has no pages")
    widths, heights, samples, buffers = (max(values) for values in zip(*pages, strict=True))
    return ImageHeader("tiff", widths, heights, samples, buffers)


def _directory(stream: BinaryIO, at: int, order: str, big: bool) -> tuple[dict[int, tuple[int, int]], int]:
    """Return tag → (its first value, or 0 where that is elsewhere; its number of values), and the next directory."""
    count_form, entry_form, field = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    stream.seek(at)
    (count,) = struct.unpack(order + count_form, exactly(stream, struct.calcsize(order + count_form)))
    if count > _MAX_TAGS:
        raise Malformed("it has too many tags")
    tags = {}
    for _ in range(count):
        tag, kind, number = struct.unpack(order + entry_form, exactly(stream, struct.calcsize(order + entry_form)))
        content = exactly(stream, field)
        if tag in tags:  # decoders disagree on which one counts
            raise Malformed(f"its header has tag {tag} twice")
        value = 0
        if kind in _TYPES and number:
            size = struct.calcsize(_TYPES[kind])
            if size * number <= field:
                (value,) = struct.unpack_from(order + _TYPES[kind], content)
            elif tag == _BITS:
                here = stream.tell()
                stream.seek(struct.unpack(order + ("Q" if big else "I"), content)[0])
                (value,) = struct.unpack(order + _TYPES[kind], exactly(stream, size))
                stream.seek(here)
        tags[tag] = (value, number)
    return tags, struct.unpack(order + ("Q" if big else "I"), exactly(stream, field))[0]


def _page(tags: dict[int, tuple[int, int]]) -> tuple[int, int, int, int]:
    """Return width, height, samples and buffers of a page."""

    def value(tag: int, default: int) -> int:
        return tags.get(tag, (default, 1))[0]

    width, height, channels, bits = value(_WIDTH, 0), value(_HEIGHT, 0), value(_CHANNELS, 1), value(_BITS, 1)
    if not width or not height or not channels or not 0 < bits <= 64:
        raise Malformed("its header is damaged")
    pixel_bytes = channels * -(-bits // 8)
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        tile_width, tile_height = value(_TILE_WIDTH, 0), value(_TILE_HEIGHT, 0)
        if not (tile_width and tile_height):
            raise Malformed("its tiles are damaged")
        buffers = -(-width // tile_width) * tile_width * tile_height * pixel_bytes
    else:
        rows = min(value(_ROWS, height) or height, height)
        # libtiff reads a single strip row by row where it is neither compressed nor shorter than its pixels.
        single = rows == height and value(_COMPRESSION, 1) == value(_PLANAR, 1) == 1
        if single and value(_STRIP_BYTES, 0) >= height * width * pixel_bytes:
            rows = 1
        buffers = rows * width * pixel_bytes
    tables = sum(tags[tag][1] for tag in (_STRIP_OFFSETS, _TILE_OFFSETS) if tag in tags)
    # libtiff's own conversion of unusual pictures to 8 bits is a second copy, four bytes for each pixel.
    return width, height, width * height * channels, buffers + _TABLE * tables + 4 * width * height
