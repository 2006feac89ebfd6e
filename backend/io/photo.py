"""Read perspective images, photos and renders, and the field of view in their EXIF data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ...shared.file_errors import display_name
from ...shared.imaging import exif
from ...shared.imaging.colour import srgb_from_linear
from . import image_input


@dataclass(frozen=True)
class Photo:
    """A perspective image, upright."""

    #: (h, w, 3) float32 sRGB in [0, 1].
    pixels: np.ndarray
    #: Horizontal field of view in degrees from its EXIF data; None if missing.
    fov: float | None


def read(path: Path) -> Photo:
    """Read an image in any format that OpenImageIO reads, and turn it upright by its EXIF orientation.

    Floating-point files are linear light; they are clipped to [0, 1] and encoded as sRGB.
    Raise PanoramaError if the file is missing, damaged or too large.
    """
    rgb, _, spec, orientation = _read(path, straight=False)
    return Photo(rgb, _fov(spec, orientation))


def read_rgba(path: Path) -> np.ndarray:
    """Read an image as `read` does, as sRGB with alpha that is not premultiplied: (h, w, 4) uint8.

    Alpha is 255 where the file has none. Raise PanoramaError.
    """
    rgb, alpha, _, _ = _read(path, straight=True)
    if alpha is None:
        alpha = np.ones_like(rgb[..., :1])
    return np.ascontiguousarray(np.round(np.concatenate([rgb, alpha], axis=-1) * 255).astype(np.uint8))


def _read(path: Path, *, straight: bool) -> tuple[np.ndarray, np.ndarray | None, oiio.ImageSpec, int]:
    """Return colour (h, w, 3) float32 sRGB and alpha (h, w, 1), in [0, 1], the header, and the orientation.

    Colour is premultiplied by alpha, as OpenImageIO reads it, unless `straight`.
    """
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", int(straight))
    with image_input.opened(path, config=config) as source:
        spec = source.spec()
        orientation = _orientation(spec)
        stored = image_input.read_all(source, display_name(path.name))
    linear = spec.format.basetype in (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
    # OpenImageIO's own `reorient` takes 5 for 7 and 7 for 5 (3.0.21).
    pixels = exif.upright(stored, orientation)
    names = list(spec.channelnames)
    colour = [names.index(name) for name in "RGB" if name in names] if set("RGB") <= set(names) else [0, 0, 0]
    rgb, alpha = np.nan_to_num(pixels[..., colour], nan=0.0), None
    if "A" in names:
        alpha = np.nan_to_num(pixels[..., [names.index("A")]], nan=0.0).clip(0, 1)
        if straight and linear:  # files of floats store it premultiplied
            rgb = rgb / np.maximum(alpha, 1e-6)
    rgb = rgb.clip(0, 1)
    return np.ascontiguousarray(srgb_from_linear(rgb) if linear else rgb, dtype=np.float32), alpha, spec, orientation


def _orientation(spec: oiio.ImageSpec) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it is missing or another number."""
    value = spec.getattribute("Orientation")
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _fov(spec: oiio.ImageSpec, orientation: int) -> float | None:
    return exif.fov(
        spec.width,
        spec.height,
        orientation,
        film_mm=spec.getattribute("Exif:FocalLengthIn35mmFilm"),
        focal_mm=spec.getattribute("Exif:FocalLength"),
        per_unit=spec.getattribute("Exif:FocalPlaneXResolution"),
        unit=spec.getattribute("Exif:FocalPlaneResolutionUnit"),
        sensor_width=spec.getattribute("Exif:PixelXDimension"),
    )
