"""The kinds of map: name, meaning of the values, and storage format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from .protocol.errors import SettingError


class MapKind(msgspec.Struct, frozen=True):
    """One kind of map: (H, W, channels) float32 where it is computed, a file in a result folder and on the wire."""

    name: str
    label: str
    channels: int
    #: Blender's names: "sRGB" for display-referred colour in [0, 1]; "Non-Color" for data.
    colorspace: Literal["sRGB", "Non-Color"]
    #: File name in a result folder. EXR is float32, PNG 16 bit (8 bit for `semantic`).
    filename: str
    #: Meaning of a value: quantity, unit, range, frame.
    meaning: str


DISTANCE = MapKind(
    "distance", "Distance", 1, "Non-Color", "distance.exr",
    "distance from the camera along the ray, linear, relative scale (the largest is about 1), > 0",
)  # fmt: skip
NORMAL = MapKind(
    "normal", "Normal", 3, "Non-Color", "normal.exr",
    "unit surface normal towards the camera, world axes: centre of the panorama +X, its left +Y, up +Z, in [-1, 1]",
)  # fmt: skip
ALBEDO = MapKind("albedo", "Albedo", 3, "sRGB", "albedo.png", "base colour, sRGB, in [0, 1]")
ROUGHNESS = MapKind(
    "roughness", "Roughness", 1, "Non-Color", "roughness.png", "Principled roughness, linear, in [0, 1]"
)
METALLIC = MapKind("metallic", "Metallic", 1, "Non-Color", "metallic.png", "Principled metallic, in [0, 1]")
SEMANTIC = MapKind("semantic", "Semantic", 3, "sRGB", "semantic.png", "class colours (NYU40 palette), sRGB, in [0, 1]")

MAPS: dict[str, MapKind] = {kind.name: kind for kind in (DISTANCE, NORMAL, ALBEDO, ROUGHNESS, METALLIC, SEMANTIC)}
DEFAULT_MAPS: tuple[str, ...] = ("distance", "normal", "albedo", "roughness", "metallic")

#: The model's input panorama, beside its maps in a result folder (8 or 16 bit sRGB).
PANORAMA_FILENAME = "panorama.png"
#: Record of the result, its source and settings: an `Info` as JSON.
INFO_FILENAME = "maps.json"


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the order of MAPS, each once. Raise SettingError for an unknown name, or for none."""
    wanted = list(names)
    unknown = [name for name in wanted if name not in MAPS]
    if unknown:
        raise SettingError(f"No map is called {', '.join(map(repr, unknown))}.", f"The maps are {', '.join(MAPS)}.")
    if not wanted:
        raise SettingError("No map was asked for.", f"Choose at least one of {', '.join(MAPS)}.")
    return tuple(name for name in MAPS if name in wanted)
