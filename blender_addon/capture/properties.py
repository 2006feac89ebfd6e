"""The properties of the source that panel and operators share."""

from __future__ import annotations

from bpy.props import BoolProperty, EnumProperty, StringProperty

SOURCES = (
    ("WORLD", "World HDRI", "The environment texture of the scene's world"),
    ("IMAGE", "Image", "An equirectangular image of this file"),
    ("FILE", "File", "An equirectangular picture on disk"),
    ("RENDER_CAMERA", "Render from Camera", "The scene, rendered as a panorama from where its camera stands"),
    ("RENDER_CURSOR", "Render from 3D Cursor", "The scene, rendered as a panorama from the 3D cursor"),
)


def source_property() -> EnumProperty:
    return EnumProperty(name="Source", description="Where the panorama comes from", items=SOURCES)


def filepath_property() -> StringProperty:
    return StringProperty(name="File", description="EXR, HDR, PNG, JPEG, TIFF or WebP, 2:1", subtype="FILE_PATH")


def repair_property() -> BoolProperty:
    return BoolProperty(
        name="Repair Pixels",
        description="Replace negative, infinite and NaN pixels. Off: refuse such a panorama",
    )
