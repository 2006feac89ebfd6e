"""Rows of a TIFF as TIFFs of their own, so that a decoder that knows only whole pictures needs little memory.

Strips are compressed each by itself (TIFF 6.0, sections 8 and 9), and so are copied as they are.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Mapping

from . import exif
from .header import Data

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _LENGTHS, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT = 273, 277, 278, 279, 284, 317, 338, 339
#: What decoding needs beside sizes and strips; names, profiles and previews are left out.
_KEPT = (_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT)
_WANTED = (_WIDTH, _HEIGHT, _OFFSETS, _ROWS, _LENGTHS, *_KEPT)
#: Of the values of tag 259: no compression; LZW, deflate under both of its numbers, PackBits.
_NONE, _COMPRESSIONS = 1, (1, 5, 8, 32946, 32773)
_RGB = 2
#: Types, and bytes of an entry's field, which holds the values or their place.
_SHORT, _LONG, _FIELD = 3, 4, 4
#: Rows of a band, about, and strips of a picture at most.
_BAND, _MANY = 256, 2**20


def bands(data: Data, multiple: int) -> Iterator[bytes] | None:
    """Return the first picture of a TIFF in bands, from the top; None where its pixels can't be parted so.

    Each band has a multiple of `multiple` rows, the last what is left. `data` is whole (picture_files/whole.py).
    Raise struct.error where the header is damaged.
    """
    order = exif.byte_order(data[:2])
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    read = exif.directory(data, order, at, _WANTED, big=big, many=_MANY)
    tags = {tag: tuple(map(int, values)) for tag, values in read.items() if isinstance(values, tuple) and values}
    if not {_WIDTH, _HEIGHT, _BITS, _OFFSETS, _LENGTHS, _PHOTOMETRIC} <= tags.keys():
        return None
    (compression, *_), (planar, *_) = tags.get(_COMPRESSION, (_NONE,)), tags.get(_PLANAR, (1,))
    if compression not in _COMPRESSIONS or planar != 1 or tags[_PHOTOMETRIC] != (_RGB,):
        return None
    height = tags[_HEIGHT][0]
    rows = min(tags.get(_ROWS, (height,))[0], height)
    strips = list(zip(tags[_OFFSETS], tags[_LENGTHS], strict=False))
    if not rows or len(strips) != -(-height // rows):
        return None
    if compression == _NONE:
        row_bytes, odd = divmod(tags[_WIDTH][0] * sum(tags[_BITS]), 8)
        if odd or any(length < row_bytes * min(rows, height - i * rows) for i, (_, length) in enumerate(strips)):
            return None
        strips = [(strips[y // rows][0] + y % rows * row_bytes, row_bytes) for y in range(height)]
        rows = 1
    step = math.lcm(rows, multiple)
    band = step * -(-_BAND // step)
    return _bands(data, order, tags, strips, rows, band) if band < height else None


def _bands(
    data: Data, order: str, tags: Mapping[int, tuple[int, ...]], strips: list[tuple[int, int]], rows: int, band: int
) -> Iterator[bytes]:
    kept = {tag: tags[tag] for tag in _KEPT if tag in tags}
    for top in range(0, tags[_HEIGHT][0], band):
        size = {_WIDTH: tags[_WIDTH], _HEIGHT: (min(band, tags[_HEIGHT][0] - top),), _ROWS: (rows,)}
        own = [data[at : at + length] for at, length in strips[top // rows : (top + band) // rows]]
        yield _file(order, {**kept, **size}, own)


def _file(order: str, tags: dict[int, tuple[int, ...]], strips: list[bytes]) -> bytes:
    """Return a TIFF with these tags, and strips."""
    lengths = tuple(map(len, strips))
    tags = {**tags, _LENGTHS: lengths, _OFFSETS: lengths}  # the latter's number counts here, its values follow
    tables_at = 8 + 2 + 12 * len(tags) + 4
    sizes = (len(_packed(order, tag, values)) for tag, values in tags.items())
    pixels_at = tables_at + sum(size for size in sizes if size > _FIELD)
    tags[_OFFSETS] = tuple(itertools.accumulate(lengths[:-1], initial=pixels_at))
    entries, tables = b"", b""
    for tag, values in sorted(tags.items()):
        content = _packed(order, tag, values)
        entries += struct.pack(order + "HHI", tag, _SHORT if tag in _KEPT else _LONG, len(values))
        if len(content) > _FIELD:
            entries += struct.pack(order + "I", tables_at + len(tables))
            tables += content
        else:
            entries += content.ljust(_FIELD, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return b"".join([head, entries, bytes(4), tables, *strips])


def _packed(order: str, tag: int, values: tuple[int, ...]) -> bytes:
    return struct.pack(f"{order}{len(values)}{'H' if tag in _KEPT else 'I'}", *values)
