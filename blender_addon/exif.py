"""What a camera wrote into a JPEG: how it was held, and its field of view. (EXIF 2.32, CIPA DC-008; TIFF 6.0.)"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from ..shared.generation import MAX_FOV, MIN_FOV

#: Diagonal of the 35 mm film (36 × 24 mm) that equivalent focal lengths are told for (CIPA DCG-001).
_FILM_DIAGONAL_MM = math.hypot(36, 24)
#: FocalPlaneResolutionUnit → millimetres.
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}

_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_FOCAL, _WIDTH, _PLANE_RESOLUTION, _PLANE_UNIT, _FOCAL_FILM = 0x920A, 0xA002, 0xA20E, 0xA210, 0xA405
#: TIFF types of one number each: code → struct format, and how many of it make the number.
_TYPES = {3: ("H", 1), 4: ("I", 1), 5: ("II", 2)}


class Exif(NamedTuple):
    #: 1 … 8, 1: upright.
    orientation: int = 1
    #: Horizontal, in degrees, of the upright picture; None where nothing tells a possible one.
    fov: float | None = None


def read(data: bytes) -> Exif:
    """Of a whole file; what is no JPEG, or damaged, tells nothing."""
    try:
        width, height, tags = _jpeg(data)
    except (struct.error, IndexError):
        return Exif()
    if not tags:
        return Exif()
    orientation = int(tags.get(_ORIENTATION, 1))
    film_mm, focal_mm, per_unit = tags.get(_FOCAL_FILM), tags.get(_FOCAL), tags.get(_PLANE_RESOLUTION)
    unit_mm = _UNIT_MM.get(int(tags.get(_PLANE_UNIT, 2)))
    if film_mm:
        half = _FILM_DIAGONAL_MM / 2 / film_mm * width / math.hypot(width, height)
    elif focal_mm and per_unit and unit_mm:
        half = tags.get(_WIDTH, width) / per_unit * unit_mm / 2 / focal_mm
    else:
        return Exif(orientation)
    if orientation >= 5:  # held upright: the file's height is the picture's width
        half *= height / width
    fov = math.degrees(2 * math.atan(half))
    return Exif(orientation, fov if MIN_FOV <= fov <= MAX_FOV else None)


def upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The picture (h, w, C) of a file, as it is to be seen."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture


def _jpeg(data: bytes) -> tuple[int, int, dict[int, float]]:
    """Width and height in pixels, and the tags that matter."""
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
    """The numbers in the first directory and in EXIF's."""
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
        place = entry + 8 if parts == 1 else struct.unpack_from(order + "I", data, entry + 8)[0]
        values = struct.unpack_from(order + form, data, place)
        tags[tag] = values[0] if parts == 1 else values[0] / values[1] if values[1] else 0.0
    return tags
