"""Blender's colour management, asked and not assumed: names of colour spaces, and its working space.

The user may have another OpenColorIO configuration (OCIO), whose colour spaces have other names, and another working
space ("scene linear"; since Blender 5.0 a setting of the file).
"""

from __future__ import annotations

from typing import Literal

import bpy
import numpy as np
from mathutils import Color

from ...shared.protocol.errors import SceneError

ColorSpace = Literal["Non-Color", "Linear Rec.709", "sRGB"]

#: What Blender's own configuration and the ACES ones (1.2 to 2.0) call these spaces, the first that exists.
_NAMES: dict[str, tuple[str, ...]] = {
    "Linear Rec.709": (
        "Linear Rec.709", "Linear Rec.709 (sRGB)", "Utility - Linear - sRGB", "Linear sRGB", "lin_rec709_scene",
        "lin_rec709", "lin_srgb", "Linear",
    ),
    "sRGB": (
        "sRGB", "sRGB Encoded Rec.709 (sRGB)", "sRGB - Texture", "Utility - sRGB - Texture", "srgb_rec709_scene",
        "srgb_texture", "srgb_tx", "sRGB Texture",
    ),
}  # fmt: skip


def names() -> list[str]:
    """Return the names of all colour spaces that an image can have."""
    settings = bpy.types.ColorManagedInputColorspaceSettings.bl_rna.properties["name"]
    return [item.identifier for item in settings.enum_items]


def find(colorspace: ColorSpace) -> str:
    """Return the name of a colour space here. Raise SceneError where the configuration has none."""
    known = set(names())
    found = next((name for name in _NAMES[colorspace] if name in known), None)
    if found is None:
        raise SceneError(
            f"Blender's colour management (OCIO) has no colour space for {colorspace}.",
            "Start Blender without the environment variable OCIO, or add that space to its configuration.",
        )
    return found


def check() -> None:
    """Raise SceneError where the colour spaces of results don't exist here."""
    for colorspace in ("Linear Rec.709", "sRGB"):
        find(colorspace)


def assign(image: bpy.types.Image, colorspace: ColorSpace) -> None:
    """Set the colour space of an image. Raise SceneError (`find`)."""
    if colorspace == "Non-Color":
        image.colorspace_settings.is_data = True
    else:
        image.colorspace_settings.name = find(colorspace)


def is_srgb(image: bpy.types.Image) -> bool:
    """Return whether the image's colour space is sRGB."""
    return image.colorspace_settings.name in _NAMES["sRGB"]


def is_plain(image: bpy.types.Image, is_float: bool) -> bool:
    """Return whether the image's colour space is that of a file which says nothing: linear Rec.709 of floats, sRGB."""
    return image.colorspace_settings.name in _NAMES["Linear Rec.709" if is_float else "sRGB"]


def rec709(working: np.ndarray) -> np.ndarray:
    """Convert (…, 3) values of Blender's working space to linear Rec.709, float32."""
    matrix = np.array([Color(unit).from_scene_linear_to_rec709_linear()[:] for unit in np.eye(3)], np.float32)
    return working if np.allclose(matrix, np.eye(3), atol=1e-5) else working @ matrix
