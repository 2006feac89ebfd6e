"""Rows of a TIFF as TIFFs of their own, so that a decoder that knows only whole pictures needs little memory.

Strips and tiles are compressed each by itself (TIFF 6.0, sections 8, 9 and 15), and so are copied as they are.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from . import exif
from .header import Data

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _LENGTHS, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT = 273, 277, 278, 279, 284, 317, 338, 339
_TILE_WIDTH, _TILE_ROWS, _TILE_OFFSETS, _TILE_LENGTHS = 322, 323, 324, 325
#: What decoding needs beside sizes, strips and tiles; names, profiles and previews are left out.
_KEPT = (_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT)
_TILES = (_TILE_WIDTH, _TILE_ROWS, _TILE_OFFSETS, _TILE_LENGTHS)
_WANTED = (_WIDTH, _HEIGHT, _OFFSETS, _ROWS, _LENGTHS, *_TILES, *_KEPT)
#: Of the values of tag 259: no compression; LZW, deflate under both of its numbers, PackBits.
_NONE, _COMPRESSIONS = 1, (1, 5, 8, 32946, 32773)
_RGB = 2
#: Types, and bytes of an entry's field, which holds the values or their place.
_SHORT, _LONG, _FIELD = 3, 4, 4
#: Rows of a band, about, and strips or tiles of a picture at most.
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
    pieces = _pieces(tags)
    if pieces is None:
        return None
    step = math.lcm(pieces.rows, multiple)
    band = step * -(-_BAND // step)
    return _bands(data, order, tags, pieces, band) if band < tags[_HEIGHT][0] else None


class _Pieces(NamedTuple):
    """The strips or tiles of a picture: of its first plane, from the top and each row from the left, then the next."""

    #: Rows of pixels in each.
    rows: int
    #: Where each begins in the file, and its length.
    places: list[tuple[int, int]]
    #: Number of planes: of each channel one, or one of all.
    planes: int
    #: What tells their size, beside the tags that are copied.
    size: dict[int, tuple[int, ...]]

    def between(self, top: int, bottom: int, height: int) -> list[tuple[int, int]]:
        """Return those of rows of a picture `height` high, where rows begin."""
        plane, across = len(self.places) // self.planes, len(self.places) // self.planes // -(-height // self.rows)
        first, last = across * (top // self.rows), across * -(-bottom // self.rows)
        return [each for at in range(0, len(self.places), plane) for each in self.places[at + first : at + last]]


def _pieces(tags: Mapping[int, tuple[int, ...]]) -> _Pieces | None:
    """Return the strips or tiles; None where they aren't those of a colour picture whose compression is known."""
    if not {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC} <= tags.keys():
        return None
    (compression, *_), (planar, *_) = tags.get(_COMPRESSION, (_NONE,)), tags.get(_PLANAR, (1,))
    if compression not in _COMPRESSIONS or planar not in (1, 2) or tags[_PHOTOMETRIC] != (_RGB,):
        return None
    planes = len(tags[_BITS]) if planar == 2 else 1
    height, width = tags[_HEIGHT][0], tags[_WIDTH][0]
    is_tiled = tags.keys() >= set(_TILES)
    rows = tags[_TILE_ROWS][0] if is_tiled else min(tags.get(_ROWS, (height,))[0], height)
    across = tags[_TILE_WIDTH][0] if is_tiled else width
    offsets, lengths = (tags.get(tag, ()) for tag in (_TILES[2:] if is_tiled else (_OFFSETS, _LENGTHS)))
    places = list(zip(offsets, lengths, strict=False))
    if not rows or not across or len(places) != planes * -(-height // rows) * -(-width // across):
        return None
    if is_tiled:
        return _Pieces(rows, places, planes, {tag: tags[tag] for tag in (_TILE_WIDTH, _TILE_ROWS)})
    if compression == _NONE:
        row_bytes, odd = divmod(width * sum(tags[_BITS][::planes]), 8)
        count = len(places) // planes
        if odd or any(
            length < row_bytes * min(rows, height - i % count * rows) for i, (_, length) in enumerate(places)
        ):
            return None
        each = range(0, len(places), count)
        places = [(places[at + y // rows][0] + y % rows * row_bytes, row_bytes) for at in each for y in range(height)]
        rows = 1
    return _Pieces(rows, places, planes, {_ROWS: (rows,)})


def _bands(data: Data, order: str, tags: Mapping[int, tuple[int, ...]], pieces: _Pieces, band: int) -> Iterator[bytes]:
    kept, height = {tag: tags[tag] for tag in _KEPT if tag in tags}, tags[_HEIGHT][0]
    for top in range(0, height, band):
        bottom = min(top + band, height)
        size = {_WIDTH: tags[_WIDTH], _HEIGHT: (bottom - top,), **pieces.size}
        own = [data[at : at + length] for at, length in pieces.between(top, bottom, height)]
        yield _file(order, {**kept, **size}, own)


def _file(order: str, tags: dict[int, tuple[int, ...]], pieces: list[bytes]) -> bytes:
    """Return a TIFF with these tags, and strips or tiles."""
    offsets_tag, lengths_tag = _TILES[2:] if _TILE_WIDTH in tags else (_OFFSETS, _LENGTHS)
    lengths = tuple(map(len, pieces))
    tags = {**tags, lengths_tag: lengths, offsets_tag: lengths}  # the latter's number counts here, its values follow
    tables_at = 8 + 2 + 12 * len(tags) + 4
    sizes = (len(_packed(order, tag, values)) for tag, values in tags.items())
    pixels_at = tables_at + sum(size for size in sizes if size > _FIELD)
    tags[offsets_tag] = tuple(itertools.accumulate(lengths[:-1], initial=pixels_at))
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
    return b"".join([head, entries, bytes(4), tables, *pieces])


def _packed(order: str, tag: int, values: tuple[int, ...]) -> bytes:
    return struct.pack(f"{order}{len(values)}{'H' if tag in _KEPT else 'I'}", *values)
