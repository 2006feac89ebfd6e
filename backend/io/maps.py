"""Read a folder of maps: a result of `panoform perceive`, or a user's own maps under the same names.

Files are named distance, normal, albedo, roughness, metallic, semantic and panorama, as EXR, HDR, PNG, JPEG,
TIFF, WebP, BMP or TGA. Their values are interpreted as follows:

- distance, roughness, metallic: the first channel, unchanged (integers scaled to [0, 1]).
- normal: unchanged if any value is below 0 (an EXR), else stored as n · 0.5 + 0.5. Then normalised; what is nearly 0
  (grey in a file of integers) or far too long (black there) is no normal, and becomes 0.
- albedo, semantic: linear in files of floating-point numbers, converted to sRGB; sRGB in all others.
- panorama: as panoramas.py reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...shared.file_errors import display_name
from ...shared.imaging.colour import srgb_from_linear
from ...shared.maps import DISTANCE, MAPS, NORMAL, PANORAMA_FILENAME
from ...shared.panorama_size import check_size
from ...shared.protocol.errors import InputError, PanoramaError
from . import image_input, panoramas, parallel
from .panoramas import Encoding

#: Lengths of a stored normal between which it is one: 0 in 8 bits has a length of 0.007, black is (−1, −1, −1).
_NORMAL_LENGTHS = (0.1, 1.6)
#: Suffixes of files that can be maps.
SUFFIXES = (".exr", ".hdr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".tga")


@dataclass(frozen=True)
class Maps:
    """The content of a folder of maps."""

    #: Name → (H, W, channels) float32, as defined in shared.maps; distances may be infinite.
    maps: dict[str, np.ndarray]
    #: (H, W, 3) float32 and its encoding.
    panorama: tuple[np.ndarray, Encoding] | None


def find(filenames: Iterable[str]) -> dict[str, str]:
    """Return map name (or "panorama") → file name. Raise InputError if two files could be one map.

    Panoform's own file names take precedence.
    """
    own = {kind.filename: name for name, kind in MAPS.items()} | {PANORAMA_FILENAME: "panorama"}
    found: dict[str, list[str]] = {}
    for filename in sorted(filenames):
        name = Path(filename).stem.lower()
        if name in (*MAPS, "panorama") and Path(filename).suffix.lower() in SUFFIXES:
            found.setdefault(name, []).append(filename)
    chosen = {}
    for name, candidates in found.items():
        preferred = [filename for filename in candidates if own.get(filename) == name] or candidates
        if len(preferred) > 1:
            raise InputError(f"There are {' and '.join(preferred)}.", "Keep one of them.")
        chosen[name] = preferred[0]
    return chosen


def find_in(folder: Path) -> dict[str, Path]:
    """Return map name (or "panorama") → file. Raise InputError if the folder or every map is missing, or as `find`."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Choose the folder that holds the maps.")
    files = {name: folder / filename for name, filename in find(path.name for path in folder.iterdir()).items()}
    if not files.keys() - {"panorama"}:
        raise InputError(
            f"{folder} contains no map.", f"Maps are named {', '.join(kind.filename for kind in MAPS.values())}."
        )
    return files


def read(folder: Path) -> Maps:
    """Read all maps in a folder. They may have different sizes.

    Raise InputError as `find_in` does; PanoramaError, naming the file, if an image is unreadable, not 2:1 to within
    1 %, or has values that are invalid for its map. All but distances are resampled to exactly 2:1.
    """
    files = find_in(folder)
    names = [name for name in MAPS if name in files]
    with ThreadPoolExecutor(1) as beside:
        panorama = beside.submit(panoramas.read, files["panorama"]) if "panorama" in files else None
        maps = parallel.in_threads(lambda name: _map(name, files[name]), names)
        return Maps(dict(zip(names, maps, strict=True)), None if panorama is None else panorama.result())


def _values(path: Path, channels: int) -> np.ndarray:
    """Read the first channels of a file, (H, W, channels) float32."""
    name = display_name(path.name)
    with image_input.opened(path, hint="Export it again.") as source:
        spec = source.spec()
        names = list(spec.channelnames)
        check_size(spec.height, spec.width)
        # OpenImageIO sorts channels by the file: R, G, B (or X, Y, Z) first, where they are named so.
        wanted = [names.index(name) for name in "RGB" if name in names] or [
            names.index(name) for name in "XYZ" if name in names
        ]
        if len(wanted) < channels:
            wanted = list(range(len(names)))
        if len(wanted) < channels:
            raise PanoramaError(f"{name} has {len(names)} channels, not {channels}.", "Export it again.")
        pixels = image_input.read_all(source, name, hint="Export it again.")
    if len(names) != channels or wanted[:channels] != list(range(channels)):
        pixels = pixels[..., wanted[:channels]]
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _map(name: str, path: Path) -> np.ndarray:
    kind = MAPS[name]
    if kind.colorspace == "sRGB":
        pixels, encoding = panoramas.load(path)
        pixels = _finite(pixels[..., :3], path)
        pixels = srgb_from_linear(pixels) if encoding == "linear" else pixels
        return _exact(np.clip(pixels, 0, 1).astype(np.float32, copy=False))
    values = _values(path, kind.channels)
    if kind is DISTANCE:
        return _distance(values, path)
    values = _finite(values, path)
    if kind is NORMAL:
        return _exact(_unit_normals(values))
    return _exact(np.clip(values, 0, 1))


def _unit_normals(values: np.ndarray) -> np.ndarray:
    """Return stored normals (H, W, 3) with a length of 1, or 0 where there is none."""
    is_signed = bool(values.min() < 0)
    shortest, longest = _NORMAL_LENGTHS
    result = np.empty_like(values)

    def normalise(rows: slice) -> None:
        signed = values[rows] if is_signed else values[rows] * 2 - 1
        length = np.sqrt(np.einsum("hwc,hwc->hw", signed, signed))[..., None]
        valid = (length > shortest) & (length < longest)
        np.divide(signed, np.where(valid, length, np.float32(np.inf)), out=result[rows])

    parallel.by_rows(normalise, len(values))
    return result


def _exact(pixels: np.ndarray) -> np.ndarray:
    """Resample a map that isn't exactly 2:1."""
    return panoramas.resize(pixels, len(pixels))


def _finite(values: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(values.min()) or not np.isfinite(values.max()):  # NaN if any is
        raise PanoramaError(f"{path.name} contains NaN or infinite values.", "Export it again.")
    return values


def _distance(values: np.ndarray, path: Path) -> np.ndarray:
    if np.isnan(values).any() or (values < 0).any() or not (values > 0).any():
        raise PanoramaError(
            f"{path.name} contains distances that are negative, all zero or NaN.",
            "Every pixel holds the distance along the ray; the channel of a one-channel EXR is called Y.",
        )
    # A distance of 0 has no point.
    return np.maximum(values, values[values > 0].min())
