"""Refuse pictures that are cut short, alike in both programs: Blender shows what there is of some, the rest black.

Other formats than these are refused by both decoders themselves.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from ..protocol.errors import PanoramaError
from . import exif, exr
from .header import Data, Header

_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_PLACES = (_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES)
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
#: A marker that ends compressed pixels (JPEG, ITU-T T.81, B.1.1): no stuffed byte, TEM or restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
#: Strips and tiles of a picture that are checked.
_MANY = 2**20


def check(data: Data, header: Header, name: str) -> None:
    """Raise PanoramaError where the pixels that `header` describes are not all in the file."""
    is_whole = _CHECKS.get(header.format)
    try:
        if is_whole is None or is_whole(data, header):
            return
    except (struct.error, IndexError, KeyError, OverflowError) as error:
        raise _cut(name) from error
    raise _cut(name)


def _cut(name: str) -> PanoramaError:
    return PanoramaError(f"{name} is damaged: its end is missing.", "Save or download it again.")


def _jpeg(data: Data, header: Header) -> bool:
    """Follow the scans, and the segments between them, to the end marker; other pictures may lie behind it."""
    at, has_pixels = header.pixels_at, False
    while found := _MARKER.search(data, at):
        at = found.end()
        marker = data[at - 1]
        if marker in (_START_OF_IMAGE, _END_OF_IMAGE):
            return marker == _END_OF_IMAGE and has_pixels
        has_pixels |= marker == _START_OF_SCAN
        at += struct.unpack_from(">H", data, at)[0]
    # Without an end marker nothing but decoding tells whether pixels are missing.
    return False


def _tiff(data: Data, header: Header) -> bool:
    order = exif.byte_order(data[:2])
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    tags = exif.directory(data, order, at, _PLACES, big=big, many=_MANY)
    for places, lengths in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        ends = zip(_numbers(tags, places), _numbers(tags, lengths), strict=False)
        if any(not place or place + length > len(data) for place, length in ends):  # 0: never written
            return False
    return True


def _numbers(tags: dict[int, exif.Tag], tag: int) -> tuple[float, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else ()


def _exr(data: Data, header: Header) -> bool:
    return header.layer is None or exr.is_whole(data, header.layer)


def _webp(data: Data, header: Header) -> bool:
    return 8 + struct.unpack_from("<I", data, 4)[0] <= len(data)


_CHECKS: dict[str, Callable[[Data, Header], bool]] = {"JPEG": _jpeg, "TIFF": _tiff, "EXR": _exr, "WebP": _webp}
