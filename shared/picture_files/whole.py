"""Refuse pictures whose pixels end early, alike in both programs: Blender shows what there is of some, the rest black.

Other formats than these are refused by both decoders themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..protocol.errors import PanoramaError
from . import exif, exr
from .header import Data, Header

_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_PLACES = (_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES)
#: Strips and tiles of a picture that are checked.
_MANY = 2**20


def check(data: Data, header: Header, name: str) -> None:
    """Raise PanoramaError where the pixels that `header` describes are not all in the file."""
    is_whole = _CHECKS.get(header.format)
    try:
        if is_whole is None or is_whole(data, header):
            return
    except (struct.error, IndexError, KeyError) as error:
        raise _cut(name) from error
    raise _cut(name)


def _cut(name: str) -> PanoramaError:
    return PanoramaError(f"{name} is damaged: its pixels end early.", "Save or download it again.")


def _jpeg(data: Data, header: Header) -> bool:
    # Pictures within the metadata, as thumbnails, lie before the pixels; 0xFF in pixels is followed by 0.
    return data.rfind(b"\xff\xd9") > header.pixels_at


def _tiff(data: Data, header: Header) -> bool:
    order = exif.byte_order(data[:2])
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    tags = exif.directory(data, order, at, _PLACES, big=big, many=_MANY)
    for places, lengths in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        ends = zip(_numbers(tags, places), _numbers(tags, lengths), strict=False)
        if any(place + length > len(data) for place, length in ends):
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
