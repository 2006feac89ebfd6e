"""A folder of maps → arrays: what `panoform perceive` wrote, or a user's own maps under those names.

Files are called distance, normal, albedo, roughness, metallic, semantic and panorama, in any image format that Blender
reads. How their numbers are read:

- distance, roughness, metallic: the first channel as it is in the file (integers as shares of the largest).
  A distance that is infinite or at least 1e9 (what renderers write where nothing was hit) becomes the largest real one.
- normal: as it is where any value is below 0 (an EXR); else n · 0.5 + 0.5. Then normalised.
- albedo, semantic: linear in EXR and HDR, and sRGB-encoded here; sRGB in every other format.
- panorama: linear light in EXR and HDR, sRGB in every other format.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...shared import json_file
from ...shared.imaging.colour import srgb_from_linear
from ...shared.jobs.perceive import Info
from ...shared.maps import DISTANCE, INFO_FILENAME, MAPS, NORMAL, PANORAMA_FILENAME
from ...shared.protocol.errors import InputError, OutputError, PanoramaError
from ..capture import pixels

#: From here on a distance means "nothing was hit" (Cycles writes 1e10).
FAR = 1e9


class MapsFolder(NamedTuple):
    """What a folder holds."""

    #: Name → (H, W, channels) float32, as maps.MAPS tells.
    maps: dict[str, np.ndarray]
    panorama: pixels.Pixels | None
    #: maps.json, None for a user's own maps.
    info: Info | None


def read(directory: str | Path) -> MapsFolder:
    """All maps in `directory`.

    Raises InputError where the folder or every map is missing, or maps.json is damaged; PanoramaError, naming the file,
    where a picture is unreadable, not 2:1, or holds numbers that its map can't have.
    """
    directory = Path(bpy.path.abspath(str(directory)))
    if not directory.is_dir():
        raise InputError(f"There is no folder {directory}.", "Choose the folder that holds the maps.")
    files = {name: _find(directory, name, kind.filename) for name, kind in MAPS.items()}
    maps = {name: _map(name, path) for name, path in files.items() if path is not None}
    if not maps:
        raise InputError(
            f"{directory} holds no map.", f"Maps are called {', '.join(kind.filename for kind in MAPS.values())}."
        )
    picture = _find(directory, "panorama", PANORAMA_FILENAME)
    return MapsFolder(maps, _colour(picture) if picture is not None else None, _info(directory / INFO_FILENAME))


def check_unharmed(directory: Path, names: Iterable[str], source: Path | None = None) -> None:
    """Raise OutputError where the files of these maps, written to `directory`, would replace what must not be lost.

    That is `source`, which the maps are made from, and every file that isn't of an earlier result, by its maps.json.
    """
    earlier: set[str] = set()
    record = directory / INFO_FILENAME
    if record.is_file():
        try:
            earlier = _filenames(json_file.read(record, Info).maps)
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{record} is not a record of Panoform's: it would be lost.", "Choose another folder for the maps."
            ) from error
    lost = sorted(name for name in _filenames(names) | earlier if (directory / name).exists())
    if source is not None and source.exists() and any((directory / name).samefile(source) for name in lost):
        raise OutputError(
            f"{source} is the source, and the maps would replace it.", "Choose another folder for the maps."
        )
    foreign = [name for name in lost if name not in earlier]
    if foreign:
        raise OutputError(
            f"{directory} has files that are not a result of Panoform: {', '.join(foreign)}.",
            "Choose another folder for the maps, or move them away.",
        )


def _filenames(names: Iterable[str]) -> set[str]:
    """The files of a result with these maps."""
    return {MAPS[name].filename for name in names if name in MAPS} | {PANORAMA_FILENAME, INFO_FILENAME}


def _find(directory: Path, name: str, filename: str) -> Path | None:
    """The file of one map; Panoform's own file name goes before others."""
    found = sorted(
        path
        for path in directory.iterdir()
        if path.stem.lower() == name and path.suffix.lower() in bpy.path.extensions_image
    )
    own = [path for path in found if path.name == filename]
    if len(found) > 1 and not own:
        names = " and ".join(path.name for path in found)
        raise InputError(f"{directory} holds {names}.", "Keep one of them.")
    return (own or found or [None])[0]


def _load(path: Path) -> tuple[np.ndarray, bool]:
    """The file's own numbers, (H, W, 4) float32, and whether its colours are linear light (EXR, HDR)."""
    image = bpy.data.images.load(str(path))
    try:
        image.colorspace_settings.name = "Non-Color"
        array = pixels.raw(image)
        is_light = image.file_format in {"OPEN_EXR", "OPEN_EXR_MULTILAYER", "HDR"}
    except PanoramaError as error:
        raise PanoramaError(f"{path} can't be read: it is damaged, or no picture.", "Export it again.") from error
    finally:
        bpy.data.images.remove(image)
    height, width, _ = array.shape
    if abs(width - 2 * height) > 0.01 * width:
        raise PanoramaError(
            f"{path} is {width} × {height} px, not 2:1.", "Maps are equirectangular: twice as wide as high."
        )
    return array, is_light


def _map(name: str, path: Path) -> np.ndarray:
    kind = MAPS[name]
    if kind.colorspace == "sRGB":
        colour = _colour(path)
        encoded = srgb_from_linear(colour.pixels) if colour.encoding == "linear" else colour.pixels
        return np.clip(encoded, 0, 1)
    array, _ = _load(path)
    array = np.ascontiguousarray(array[..., : kind.channels])
    if kind is DISTANCE:
        return _distance(array, path)
    if not np.isfinite(array).all():
        raise PanoramaError(f"{path} holds values that are not numbers.", "Export it again.")
    if kind is NORMAL:
        signed = array if array.min() < 0 else array * 2 - 1
        length = np.linalg.norm(signed, axis=-1, keepdims=True)
        return signed / np.maximum(length, 1e-6)
    return np.clip(array, 0, 1)


def _distance(array: np.ndarray, path: Path) -> np.ndarray:
    far = array >= FAR  # infinity too
    near = array[~far]
    if np.isnan(near).any() or (near < 0).any() or not (near > 0).any():
        raise PanoramaError(
            f"{path} holds distances that are negative, all zero or not numbers.",
            "Every pixel holds the distance along the ray; the channel of a one-channel EXR is called Y.",
        )
    return np.where(far, near.max(), array)


def _colour(path: Path) -> pixels.Pixels:
    array, is_light = _load(path)
    colour = np.ascontiguousarray(array[..., :3])
    if not np.isfinite(colour).all():
        raise PanoramaError(f"{path} holds values that are not numbers.", "Export it again.")
    return pixels.Pixels(colour, "linear" if is_light else "srgb")


def _info(path: Path) -> Info | None:
    if not path.exists():
        return None
    try:
        return json_file.read(path, Info)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}.", "Delete it, or make the maps again.") from error
