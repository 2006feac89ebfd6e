"""A folder of maps → images: the output of `panoform perceive`, or a user's own maps under the same names.

Files are named distance, normal, albedo, roughness, metallic, semantic and panorama, as EXR, HDR, PNG, JPEG, TIFF,
WebP, BMP or TGA. Their values are interpreted as follows:

- distance, roughness, metallic: the first channel, unchanged (integers scaled to [0, 1]).
  A distance that is infinite or at least 1e9 (no hit, in renderers) becomes the largest finite one.
- normal: unchanged if any value is below 0 (an EXR), else stored as n · 0.5 + 0.5.
- albedo, semantic, panorama: linear light in EXR and HDR, sRGB in every other format.

A file that holds these values is packed as it is; of others, the values are packed as float32.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...shared import json_file
from ...shared.jobs.perceive import Info
from ...shared.maps import DISTANCE, INFO_FILENAME, MAPS, NORMAL, PANORAMA_FILENAME
from ...shared.protocol.errors import InputError, PanoramaError
from ..capture import colour_management, image_limits, picture_file, pixels
from . import images

#: Distances from here on mean "no hit" (Cycles writes 1e10).
FAR = 1e9


class MapsFolder(NamedTuple):
    """The content of a folder of maps."""

    #: Name → new, packed image with the values described in maps.MAPS.
    maps: dict[str, bpy.types.Image]
    #: A new, packed image.
    panorama: bpy.types.Image | None
    #: The content of maps.json; None for a user's own maps.
    info: Info | None


def read(directory: str | Path) -> MapsFolder:
    """Read all maps in `directory`.

    Raise InputError if the folder or every map is missing, or maps.json is damaged; PanoramaError, naming the file, if
    an image is unreadable, not 2:1, or has values that are invalid for its map.
    """
    directory = Path(bpy.path.abspath(str(directory)))
    files, picture = _paths(directory)
    info = _info(directory / INFO_FILENAME)
    before = set(bpy.data.images)
    try:
        maps = {name: _map(name, path) for name, path in files.items()}
        return MapsFolder(maps, _panorama(picture) if picture is not None else None, info)
    except BaseException:
        bpy.data.batch_remove(set(bpy.data.images) - before)
        raise


def files(directory: Path) -> dict[str, np.ndarray]:
    """Return file name → content, (bytes,) uint8, of the maps and the panorama in `directory`, not decoded.

    Raise InputError if the folder or every map is missing, or a file can't be read.
    """
    maps, panorama = _paths(directory)
    try:
        return {
            path.name: np.fromfile(path, np.uint8) for path in (*maps.values(), panorama) if path is not None
        }  # fmt: skip
    except OSError as error:
        raise InputError(f"{error.filename} can't be read: {error.strerror}.", "Check the file.") from error


def _paths(directory: Path) -> tuple[dict[str, Path], Path | None]:
    """Return the files of the maps by name, and of the panorama. Raise InputError if there is no map."""
    if not directory.is_dir():
        raise InputError(f"There is no folder {directory}.", "Choose the folder that holds the maps.")
    found = {name: _find(directory, name, kind.filename) for name, kind in MAPS.items()}
    maps = {name: path for name, path in found.items() if path is not None}
    if not maps:
        raise InputError(
            f"{directory} contains no map.", f"Maps are named {', '.join(kind.filename for kind in MAPS.values())}."
        )
    return maps, _find(directory, "panorama", PANORAMA_FILENAME)


def _find(directory: Path, name: str, filename: str) -> Path | None:
    """Return the file of a map; Panoform's own file name takes precedence."""
    found = sorted(
        path
        for path in directory.iterdir()
        if path.stem.lower() == name and path.suffix.lower() in bpy.path.extensions_image
    )
    own = [path for path in found if path.name == filename]
    if len(found) > 1 and not own:
        names = " and ".join(path.name for path in found)
        raise InputError(f"{directory} contains {names}.", "Keep one of them.")
    return (own or found or [None])[0]


def _load(path: Path) -> tuple[bpy.types.Image, np.ndarray]:
    """Load the file as data: an image and its values, (H, W, 4) float32; the alpha channel is ignored."""
    image = image_limits.load(path)
    image.colorspace_settings.is_data = True
    image.alpha_mode = "NONE"
    try:
        array = pixels.raw(image)
    except PanoramaError as error:
        raise PanoramaError(f"{path} can't be read: it is damaged or not an image.", "Export it again.") from error
    height, width, _ = array.shape
    if abs(width - 2 * height) > 0.01 * width:
        raise PanoramaError(
            f"{path} is {width} × {height} px, not 2:1.", "Maps are equirectangular: twice as wide as high."
        )
    return image, array


def _is_light(image: bpy.types.Image) -> bool:
    """Return whether the file's colours are linear light (EXR, HDR)."""
    return image.file_format in {"OPEN_EXR", "OPEN_EXR_MULTILAYER", "HDR"}


def _packed(
    image: bpy.types.Image, array: np.ndarray, values: np.ndarray, colorspace: images.ColorSpace
) -> bpy.types.Image:
    """Return the image of a map: the file itself where it holds `values`, (H, W, 1 or 3), else a new image of them.

    `array`: the values of the file, (H, W, 4).
    """
    if image.type == "IMAGE" and (array[..., :3] == values).all() and (array[..., 3] == 1).all():
        image.pack()
        colour_management.assign(image, colorspace)
        return image
    name = image.name
    bpy.data.images.remove(image)
    return images.create_float(name, values, colorspace)


def _map(name: str, path: Path) -> bpy.types.Image:
    kind = MAPS[name]
    image, array = _load(path)
    values = np.ascontiguousarray(array[..., : kind.channels])
    if kind is DISTANCE:
        return _packed(image, array, _distance(values, path), "Non-Color")
    _check_finite(values, path)
    if kind is NORMAL:
        return _packed(image, array, values if values.min() < 0 else _normals(values), "Non-Color")
    colorspace = "Linear Rec.709" if kind.colorspace == "sRGB" and _is_light(image) else kind.colorspace
    return _packed(image, array, np.clip(values, 0, 1), colorspace)


def _distance(array: np.ndarray, path: Path) -> np.ndarray:
    far = array >= FAR  # includes infinity
    near = array[~far]
    if np.isnan(near).any() or (near < 0).any() or not (near > 0).any():
        raise PanoramaError(
            f"{path} contains distances that are negative, all zero or NaN.",
            "Every pixel holds the distance along the ray; the channel of a one-channel EXR is called Y.",
        )
    return np.where(far, near.max(), array)


def _normals(stored: np.ndarray) -> np.ndarray:
    """Return the unit normals stored as n · 0.5 + 0.5."""
    signed = stored * 2 - 1
    return signed / np.maximum(np.linalg.norm(signed, axis=-1, keepdims=True), 1e-6)


def _panorama(path: Path) -> bpy.types.Image:
    reading = picture_file.read(path)
    if not reading.is_plain:
        colours = reading.opaque(path.name)
        _check_finite(colours.pixels, path)
        space = "sRGB" if colours.encoding == "srgb" else "Linear Rec.709"
        return images.create_float(path.name, colours.pixels, space)
    image, array = _load(path)
    _check_finite(array[..., :3], path)
    return _packed(image, array, array[..., :3], "Linear Rec.709" if _is_light(image) else "sRGB")


def _check_finite(array: np.ndarray, path: Path) -> None:
    if not np.isfinite(array).all():
        raise PanoramaError(f"{path} contains NaN or infinite values.", "Export it again.")


def _info(path: Path) -> Info | None:
    if not path.exists():
        return None
    try:
        info = json_file.read(path, Info)
        if info.floor is not None:
            *normal, depth = info.floor
            if abs(math.hypot(*normal) - 1) > 0.01 or normal[2] <= 0 or not 0 < depth < FAR:
                raise ValueError("its floor is not a plane below the panorama")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}.", "Delete it, or make the maps again.") from error
    return info
