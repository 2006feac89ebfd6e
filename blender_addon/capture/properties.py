"""The source properties that panel and operators share."""

from __future__ import annotations

from bpy.props import BoolProperty, EnumProperty, StringProperty

from ..ui.path_properties import BLEND_RELATIVE

SOURCES = (
    ("WORLD", "World HDRI", "The environment texture of the scene's world"),
    ("IMAGE", "Image", "An equirectangular image in this .blend file"),
    ("FILE", "File", "An equirectangular image file on disk"),
    ("RENDER_CAMERA", "Render from Camera", "Render the scene as a panorama from its camera's position"),
    ("RENDER_CURSOR", "Render from 3D Cursor", "Render the scene as a panorama from the 3D cursor"),
)


def source_property() -> EnumProperty:
    return EnumProperty(name="Source", description="Source of the panorama", items=SOURCES)


def filepath_property() -> StringProperty:
    return StringProperty(
        name="File",
        description="EXR, HDR, PNG, JPEG, TIFF or WebP with aspect ratio 2:1",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )


def repair_property() -> BoolProperty:
    return BoolProperty(
        name="Repair Pixels",
        description="Replace negative, infinite and NaN pixels. Otherwise, a panorama with such pixels is rejected",
    )
