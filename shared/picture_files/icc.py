"""ICC profiles of RGB and grey pictures: curves and a matrix (ICC.1:2022, 8.3.4, 8.4.3, 10.6 and 10.18)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import numpy as np

from ..imaging.colour import linear_from_srgb
from ..imaging.colour_space import D50_XYZ, ColourSpace, rec709_from_xyz
from ..protocol.errors import PanoramaError

_CONVERT = "Convert it to sRGB when you export it."
#: How far a profile's colours may be from sRGB's, linear, to be called sRGB: half of an 8-bit step at mid grey.
_SRGB_TOLERANCE = 4e-3


def read(profile: bytes, name: str, *, is_grey: bool = False) -> ColourSpace | None:
    """Return the colour space of a profile for RGB, or for the three equal channels of a picture that `is_grey`.

    None for sRGB. Raise PanoramaError for others, and damaged ones.
    """
    try:
        return _read(profile, name, is_grey)
    except (struct.error, IndexError, ValueError) as error:
        raise PanoramaError(f"The ICC profile of {name} is damaged.", _CONVERT) from error


def _read(profile: bytes, name: str, is_grey: bool) -> ColourSpace | None:
    space = profile[16:20].decode("latin-1").strip()
    if profile[36:40] != b"acsp":
        raise ValueError("no profile")
    (count,) = struct.unpack_from(">I", profile, 128)
    tags: dict[str, bytes] = {}
    for i in range(min(count, 200)):
        key, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        tags[key.decode("latin-1")] = profile[offset : offset + size]
    title = _description(tags.get("desc", b"")) or "an unnamed ICC profile"
    if space == "GRAY" and is_grey and "kTRC" in tags:
        return ColourSpace(title, np.eye(3), _curve(tags["kTRC"]))
    if space != "RGB":
        raise PanoramaError(f"{name} holds {space} colours ({title}), not RGB.", _CONVERT)
    if any(f"{channel}TRC" not in tags or f"{channel}XYZ" not in tags for channel in "rgb"):
        raise PanoramaError(f"The colours of {name} are defined by tables ({title}), which can't be read.", _CONVERT)
    if "cicp" in tags and tags["cicp"][9] in (16, 18):
        raise PanoramaError(f"{name} is HDR video colour ({title}).", "Convert it to a linear EXR, or to sRGB.")
    curves = [_curve(tags[f"{channel}TRC"]) for channel in "rgb"]
    xyz = np.stack([_xyz(tags[f"{channel}XYZ"]) for channel in "rgb"], axis=-1)
    space = ColourSpace(title, rec709_from_xyz(D50_XYZ) @ xyz, partial(_decode, curves=curves))
    return None if _is_srgb(space) else space


def _is_srgb(space: ColourSpace) -> bool:
    ramp = np.linspace(0, 1, 33)
    grid = np.stack(np.meshgrid(ramp[::4], ramp[::4], ramp[::4]), axis=-1).reshape(-1, 3)
    values = np.concatenate([grid, np.repeat(ramp[:, None], 3, axis=1)])
    return bool(np.abs(space.linear_rec709(values) - linear_from_srgb(values)).max() < _SRGB_TOLERANCE)


def _decode(values: np.ndarray, curves: list[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    return np.stack([curve(values[..., channel]) for channel, curve in enumerate(curves)], axis=-1)


def _fixed(data: bytes, offset: int, count: int) -> np.ndarray:
    """Return s15Fixed16 numbers."""
    return np.array(struct.unpack_from(f">{count}i", data, offset)) / 65536


def _xyz(tag: bytes) -> np.ndarray:
    return _fixed(tag, 8, 3)


def _curve(tag: bytes) -> Callable[[np.ndarray], np.ndarray]:
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.array(struct.unpack_from(f">{count}H", tag, 12), np.float64)
        if count == 0:
            return lambda stored: stored
        if count == 1:
            return partial(_parametric, parameters=[values[0] / 256], kind=0)
        return partial(np.interp, xp=np.linspace(0, 1, count), fp=values / 65535)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        return partial(_parametric, parameters=list(_fixed(tag, 12, (1, 3, 4, 5, 7)[kind])), kind=kind)
    raise ValueError("no curve")


def _parametric(stored: np.ndarray, parameters: list[float], kind: int) -> np.ndarray:
    """Return Y for X = `stored` (10.18: g, a, b, c, d, e, f)."""
    g, a, b, c, d, e, f = (*parameters, *([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(parameters) :]))[:7]
    if kind == 0:
        a, b = 1.0, 0.0
    above = np.maximum(a * stored + b, 0) ** g
    if kind == 0:
        return np.maximum(stored, 0) ** g
    if kind in (1, 2):  # Y = (aX + b)^g + c from X = −b/a, c below it
        offset = c if kind == 2 else 0.0
        return np.where(stored >= -b / a, above + offset, offset)
    return np.where(stored >= d, above + (e if kind == 4 else 0.0), c * stored + (f if kind == 4 else 0.0))


def _description(tag: bytes) -> str:
    if tag[:4] == b"desc":
        (length,) = struct.unpack_from(">I", tag, 8)
        return tag[12 : 12 + length].split(b"\0")[0].decode("latin-1").strip()
    if tag[:4] == b"mluc":
        length, offset = struct.unpack_from(">II", tag, 20)
        return tag[offset : offset + length].decode("utf-16-be", "replace").strip("\0 ")
    return ""
