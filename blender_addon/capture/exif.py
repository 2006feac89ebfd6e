"""EXIF data of a JPEG: orientation and field of view. (EXIF 2.32, CIPA DC-008; TIFF 6.0.)"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...shared.imaging import exif

_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_FOCAL, _WIDTH, _PLANE_RESOLUTION, _PLANE_UNIT, _FOCAL_FILM = 0x920A, 0xA002, 0xA20E, 0xA210, 0xA405
#: Numeric TIFF types: code → struct format, and the count of struct values (2 for a rational).
_TYPES = {3: ("H", 1), 4: ("I", 1), 5: ("II", 2)}


class Exif(NamedTuple):
    """Orientation and field of view."""

    #: EXIF orientation, 1 to 8; 1 is upright.
    orientation: int = 1
    #: Horizontal field of view of the upright picture in degrees; None if unknown or implausible.
    fov: float | None = None


def read(data: bytes) -> Exif:
    """Read the EXIF data of a file; return defaults if it is damaged or not a JPEG."""
    try:
        width, height, tags = _jpeg(data)
    except (struct.error, IndexError):
        return Exif()
    if not tags:
        return Exif()
    orientation = int(tags.get(_ORIENTATION, 1))
    fov = exif.fov(
        width, height, orientation, film_mm=tags.get(_FOCAL_FILM), focal_mm=tags.get(_FOCAL),
        per_unit=tags.get(_PLANE_RESOLUTION), unit=int(tags.get(_PLANE_UNIT, 0)), sensor_width=tags.get(_WIDTH),
    )  # fmt: skip
    return Exif(orientation, fov)


def _jpeg(data: bytes) -> tuple[int, int, dict[int, float]]:
    """Return width and height in pixels, and the tags."""
    tags: dict[int, float] = {}
    at = 2
    while data[:2] == b"\xff\xd8":
        marker, length = struct.unpack_from(">xBH", data, at)
        body = data[at + 4 : at + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = struct.unpack_from(">xHH", body)
            return width, height, tags
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            tags = _tiff(body[6:])
        at += 2 + length
    return 0, 0, {}


def _tiff(data: bytes) -> dict[int, float]:
    """Return the numeric tags of the first and the EXIF directory."""
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    tags = _directory(data, order, first)
    return tags | (_directory(data, order, int(tags[_EXIF_IFD])) if _EXIF_IFD in tags else {})


def _directory(data: bytes, order: str, at: int) -> dict[int, float]:
    tags = {}
    (count,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if kind not in _TYPES or number != 1:
            continue
        form, parts = _TYPES[kind]
        offset = entry + 8 if parts == 1 else struct.unpack_from(order + "I", data, entry + 8)[0]
        values = struct.unpack_from(order + form, data, offset)
        tags[tag] = values[0] if parts == 1 else values[0] / values[1] if values[1] else 0.0
    return tags
