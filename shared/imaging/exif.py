"""Interpret a photo's EXIF: orientation and field of view (EXIF 2.32, CIPA DC-008)."""

from __future__ import annotations

import math

import numpy as np

from .fov import MAX_FOV, MIN_FOV

#: Diagonal of the 35 mm film frame (36 × 24 mm), the reference of equivalent focal lengths (CIPA DCG-001).
_FILM_DIAGONAL_MM = math.hypot(36, 24)
#: No length or count in EXIF is larger.
_LARGEST = 1e9
#: FocalPlaneResolutionUnit → millimetres.
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


def upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of the stored picture (h, w, C) in display orientation. `orientation` is 1 … 8; 1: unchanged."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture


def fov(
    width: int,
    height: int,
    orientation: int,
    *,
    film_mm: float | None,
    focal_mm: float | None,
    per_unit: float | None,
    unit: int | None,
    sensor_width: int | None,
) -> float | None:
    """Return the horizontal field of view of the upright picture in degrees; None where the EXIF gives no valid one.

    Computed from the 35 mm equivalent focal length, which refers to the picture's diagonal, or else from the focal
    length and the sensor's resolution.

    Args:
        width, height: of the stored picture, in pixels.
        film_mm: FocalLengthIn35mmFilm.
        focal_mm, per_unit, unit: FocalLength, FocalPlaneXResolution and FocalPlaneResolutionUnit.
        sensor_width: PixelXDimension, the width of the original picture; None: `width`.
    """
    numbers = (film_mm, focal_mm, per_unit, sensor_width)
    if width < 1 or height < 1 or not all(_is_valid(number) for number in numbers):
        return None
    unit_mm = _UNIT_MM.get(unit if isinstance(unit, int) and unit else 2)
    if film_mm:
        half = _FILM_DIAGONAL_MM / 2 / film_mm * width / math.hypot(width, height)
    elif focal_mm and per_unit and unit_mm:
        half = (sensor_width or width) / per_unit * unit_mm / 2 / focal_mm
    else:
        return None
    if orientation >= 5:  # rotated by 90°: the stored height is the picture's width
        half *= height / width
    if not math.isfinite(half):
        return None
    degrees = math.degrees(2 * math.atan(half))
    return degrees if MIN_FOV <= degrees <= MAX_FOV else None


def _is_valid(number: object) -> bool:
    """Return whether a value from EXIF is missing, or a number that can be a length or a count."""
    return number is None or (isinstance(number, int | float) and math.isfinite(number) and 0 <= number < _LARGEST)
