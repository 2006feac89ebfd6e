"""Stored pixels and what the header says of them → the picture: upright, whole, in linear Rec.709 or sRGB."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..imaging.colour import srgb_from_linear
from ..imaging.exif import upright
from ..protocol.errors import PanoramaError
from .header import Header

Encoding = Literal["linear", "srgb"]
#: How much the scales of width and height by GPano may differ: editors round.
_SCALE_TOLERANCE = 0.01
_TILTED = "The camera was tilted, by its metadata: pitch {:.1f}°, roll {:.1f}°. The picture is used as it is."


def size(header: Header, stored: tuple[int, int], name: str) -> tuple[int, int]:
    """Return height and width of the picture whose `stored` pixels have that height and width.

    Raise PanoramaError where the metadata is of another picture.
    """
    height, width = (header.whole[1], header.whole[0]) if header.whole else stored
    if header.orientation >= 5:
        height, width = width, height
    crop = _crop(header, height, width, name)
    return (height, width) if crop is None else crop[:2]


def _crop(header: Header, height: int, width: int, name: str) -> tuple[int, int, int, int] | None:
    """Return height, width of the whole sphere, and row, column at which the picture lies in it; None: it is all."""
    sphere = header.sphere
    if sphere is None or sphere.is_whole or not (sphere.width and sphere.height):
        return None
    scale, other = width / sphere.width, height / sphere.height
    if abs(scale / other - 1) > _SCALE_TOLERANCE:
        raise PanoramaError(
            f"The metadata of {name} (GPano) describes a picture of {sphere.width} × {sphere.height}, "
            f"but it is {width} × {height}.",
            "Remove its XMP metadata (exiftool -xmp-gpano:all= FILE) if it shows all directions.",
        )
    whole = max(round(sphere.full_height * other), height), max(round(sphere.full_width * scale), width)
    row = min(round(sphere.top * other), whole[0] - height)
    return *whole, row, min(round(sphere.left * scale), whole[1] - width)


def assemble(stored: np.ndarray, header: Header, name: str) -> tuple[np.ndarray, Encoding]:
    """Return the picture, (H, W, 3 or, with alpha, 4) float32, and its encoding.

    `stored`: (h, w, 3 or 4) float32 as the file stores them, alpha premultiplied only in files of floats. What the
    file doesn't show has alpha 0.
    """
    picture = coloured(placed(stored, header, name), header)
    return np.ascontiguousarray(picture, dtype=np.float32), "linear" if header.is_float else "srgb"


def placed(stored: np.ndarray, header: Header, name: str) -> np.ndarray:
    """Return the stored pixels upright and whole; alpha is 0 where the file shows nothing. Raise PanoramaError."""
    picture = stored
    if header.window is not None and header.whole is not None:
        window = header.window
        picture = _placed(picture, (header.whole[1], header.whole[0]), window.top, window.left)
    picture = upright(picture, header.orientation)
    crop = _crop(header, picture.shape[0], picture.shape[1], name)
    return picture if crop is None else _placed(picture, crop[:2], *crop[2:])


def coloured(picture: np.ndarray, header: Header) -> np.ndarray:
    """Return stored pixels (h, w, 3 or 4) in linear Rec.709, if the file holds floats, or in sRGB."""
    if header.colour is None:
        return picture
    linear = header.colour.linear_rec709(picture[..., :3])
    # Colours outside Rec.709 are no errors of the file.
    linear = np.where((picture[..., :3] >= 0).all(-1, keepdims=True), np.maximum(linear, 0), linear)
    # Integers are display-referred: as sRGB, whose range they keep.
    colour = linear if header.is_float else srgb_from_linear(linear.clip(0, 1))
    return np.concatenate([colour, picture[..., 3:]], axis=-1)


def _placed(picture: np.ndarray, whole: tuple[int, int], row: int, column: int) -> np.ndarray:
    """Place a picture at a row and column of a whole (height, width), cut where it exceeds that; elsewhere alpha is 0.

    Nothing gets an alpha channel where the picture covers the whole.
    """
    height, width, channels = picture.shape
    top, bottom = max(row, 0), min(row + height, whole[0])
    left, right = max(column, 0), min(column + width, whole[1])
    inside = picture[max(top - row, 0) : max(bottom - row, 0), max(left - column, 0) : max(right - column, 0)]
    if inside.shape[:2] == tuple(whole):
        return inside
    canvas = np.zeros((*whole, 4), np.float32)
    if inside.size:
        canvas[top:bottom, left:right, :channels] = inside
        if channels == 3:
            canvas[top:bottom, left:right, 3] = 1
    return canvas


def notes(header: Header) -> list[str]:
    """Return what a user should know of how the file is read."""
    told = list(header.notes)
    sphere = header.sphere
    if sphere is not None and not sphere.is_level:
        told.append(_TILTED.format(sphere.pitch, sphere.roll))
    if sphere is not None and sphere.unread:
        told.append(f"Its metadata (GPano) has angles that can't be read: {', '.join(sphere.unread)}.")
    if sphere is not None and sphere.heading:
        told.append(f"Its centre has the compass heading {sphere.heading:g}°.")
    return told


def missing(header: Header | None, transparent: int, total: int) -> PanoramaError:
    """Return the error for a panorama of which pixels are transparent or not in the file; `header` of that, if any."""
    hint = "Edit ▸ Extend (panoform edit --extend) fills what is missing."
    share = f"{transparent} of {total} pixels"
    if header is not None and header.sphere is not None and not header.sphere.is_whole:
        sphere = header.sphere
        return PanoramaError(
            f"The picture shows only a part of the sphere, by its metadata (GPano): {sphere.width} × {sphere.height} "
            f"of {sphere.full_width} × {sphere.full_height}; {share} are unknown.",
            hint,
        )
    if header is not None and header.window is not None and header.whole is not None:
        _, _, width, height = header.window
        return PanoramaError(
            f"The EXR's pixels (its data window, {width} × {height}) don't fill its display window, "
            f"{header.whole[0]} × {header.whole[1]}; {share} are unknown.",
            hint,
        )
    return PanoramaError(
        f"{share} are transparent.", f"Fill the background, or render with film transparency off. {hint}"
    )
