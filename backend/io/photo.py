"""Read perspective images, photos and renders, and the field of view in their EXIF data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ...shared.file_errors import display_name
from ...shared.imaging import exif
from ...shared.imaging.colour import srgb_from_linear
from ...shared.picture_files import assemble, reading
from ...shared.protocol.errors import PanoramaError
from . import image_input

#: Below this alpha a pixel counts as transparent.
OPAQUE = 0.999


@dataclass(frozen=True)
class Photo:
    """A perspective image, upright."""

    #: (h, w, 3) float32 sRGB in [0, 1].
    pixels: np.ndarray
    #: Horizontal field of view in degrees from its EXIF data; None if missing.
    fov: float | None


def read(path: Path) -> Photo:
    """Read an image upright; its colours are converted as its file says.

    Floating-point files are linear light; they are clipped to [0, 1] and encoded as sRGB.
    Raise PanoramaError if the file is missing, damaged, too large, or has transparent pixels.
    """
    rgb, alpha, spec, orientation = _read(path)
    if alpha is not None and (count := int(np.count_nonzero(alpha < OPAQUE))):
        raise PanoramaError(
            f"{display_name(path.name)} has {count} transparent pixels, which show nothing.",
            "Fill them, or crop the picture.",
        )
    return Photo(rgb, _fov(spec, orientation))


def read_mask(path: Path) -> np.ndarray:
    """Read a mask, (h, w, 1) bool: where an image is brighter than 0.5 and not transparent. Raise PanoramaError."""
    rgb, alpha, _, _ = _read(path)
    return (rgb if alpha is None else rgb * alpha).mean(axis=-1, keepdims=True) > 0.5


def read_rgba(path: Path) -> np.ndarray:
    """Read an image as `read` does, as sRGB with alpha that is not premultiplied: (h, w, 4) uint8.

    Alpha is 255 where the file has none. Raise PanoramaError.
    """
    rgb, alpha, _, _ = _read(path)
    if alpha is None:
        alpha = np.ones_like(rgb[..., :1])
    return np.ascontiguousarray(np.round(np.concatenate([rgb, alpha], axis=-1) * 255).astype(np.uint8))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None, oiio.ImageSpec, int]:
    """Return colour (h, w, 3) float32 sRGB and alpha (h, w, 1), in [0, 1], OpenImageIO's header, and the orientation.

    Colour is not premultiplied.
    """
    header = reading.read_file(path, is_panorama=False)
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)
    with image_input.opened(path, config=config) as source:
        source.seek_subimage(header.layer.part if header.layer else 0, 0)
        spec = source.spec()
        names = list(spec.channelnames)
        stored = image_input.read_all(source, display_name(path.name), subimage=source.current_subimage())
    header.is_float = spec.format.basetype in (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
    wanted = header.layer.channels if header.layer else [name for name in "RGBA" if name in names]
    if len(wanted) < 3:  # grey
        wanted = [*names[:1] * 3, *("A" for name in names if name == "A")]
    picture, _ = assemble.assemble(stored[..., [names.index(name) for name in wanted]], header, display_name(path.name))
    rgb, alpha = np.nan_to_num(picture[..., :3], nan=0.0), None
    if picture.shape[2] == 4:
        alpha = np.nan_to_num(picture[..., 3:], nan=0.0).clip(0, 1)
        if header.is_float:  # files of floats store it premultiplied
            rgb = rgb / np.maximum(alpha, 1e-6)
    rgb = rgb.clip(0, 1)
    encoded = srgb_from_linear(rgb) if header.is_float else rgb
    return np.ascontiguousarray(encoded, dtype=np.float32), alpha, spec, header.orientation


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
