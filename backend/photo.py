"""Read pictures that are no panoramas, photos and renders, and the field of view that a camera wrote into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ..shared.errors import PanoramaError
from ..shared.generation import MAX_FOV, MIN_FOV
from .exposure import srgb_from_linear

#: Longest side that is read, in pixels.
MAX_SIDE = 16384
#: Diagonal of the 35 mm film (36 × 24 mm) that equivalent focal lengths are told for (CIPA DCG-001).
_FILM_DIAGONAL_MM = math.hypot(36, 24)
#: EXIF's FocalPlaneResolutionUnit → millimetres.
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


@dataclass(frozen=True)
class Photo:
    """A picture, upright."""

    #: (h, w, 3) float32 sRGB in [0, 1].
    pixels: np.ndarray
    #: (h, w) float32 in [0, 1]; None where the file has none.
    alpha: np.ndarray | None
    #: Horizontal field of view in degrees by its EXIF; None where that doesn't tell.
    fov: float | None


def read(path: Path) -> Photo:
    """A picture in any format that OpenImageIO reads, turned as its EXIF orientation says.

    Floating-point files are linear light; they are clipped to [0, 1] and encoded as sRGB. Raises PanoramaError.
    """
    if not path.is_file():
        raise PanoramaError(f"There is no file {path}.", "Check the path.")
    image = oiio.ImageBuf(str(path))
    if not image.read(force=True, convert=oiio.FLOAT):
        reason = " ".join(image.geterror().split()).rstrip(".") or "its content is not an image"
        raise PanoramaError(f"{path.name} can't be read: {reason}.", "Save or download it again.")
    if max(image.spec().width, image.spec().height) > MAX_SIDE:
        raise PanoramaError(f"{path.name} has more than {MAX_SIDE} pixels a side.", "Scale it down first.")
    fov = fov_from_exif(image.spec())
    linear = image.nativespec().format.basetype in (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
    upright = oiio.ImageBufAlgo.reorient(image)
    if fov is not None and upright.spec().width != image.spec().width:
        fov = _other_side(fov, image.spec().height / image.spec().width)
    pixels = np.asarray(upright.get_pixels(oiio.FLOAT))
    names = list(upright.spec().channelnames)
    colour = [names.index(name) for name in "RGB" if name in names] if set("RGB") <= set(names) else [0, 0, 0]
    alpha = upright.spec().alpha_channel
    rgb = np.nan_to_num(pixels[..., colour], nan=0.0).clip(0, 1)
    return Photo(
        np.ascontiguousarray(srgb_from_linear(rgb) if linear else rgb, dtype=np.float32),
        np.ascontiguousarray(pixels[..., alpha]) if alpha >= 0 else None,
        fov,
    )


def fov_from_exif(spec: oiio.ImageSpec) -> float | None:
    """Horizontal field of view in degrees, before any turning; None where the EXIF doesn't tell a possible one.

    By the 35 mm equivalent focal length, which is defined over the picture's diagonal, or else by the focal length and
    the sensor's resolution.
    """
    width, height = spec.width, spec.height
    film_mm = spec.getattribute("Exif:FocalLengthIn35mmFilm")
    focal_mm = spec.getattribute("Exif:FocalLength")
    per_unit = spec.getattribute("Exif:FocalPlaneXResolution")
    unit_mm = _UNIT_MM.get(spec.getattribute("Exif:FocalPlaneResolutionUnit") or 2)
    if film_mm:
        half = _FILM_DIAGONAL_MM / 2 / film_mm * width / math.hypot(width, height)
    elif focal_mm and per_unit and unit_mm:
        sensor_mm = (spec.getattribute("Exif:PixelXDimension") or width) / per_unit * unit_mm
        half = sensor_mm / 2 / focal_mm
    else:
        return None
    fov = math.degrees(2 * math.atan(half))
    return fov if MIN_FOV <= fov <= MAX_FOV else None


def _other_side(fov: float, ratio: float) -> float:
    """The field of view along a side `ratio` times as long."""
    return math.degrees(2 * math.atan(math.tan(math.radians(fov) / 2) * ratio))
