"""The source properties that panel and operators share."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from ...shared.engines import MAX_PANORAMA_WIDTH
from ..ui.path_properties import BLEND_RELATIVE
from .picture_file import layer_names
from .sources import image_file

#: Width of a rendered panorama: twice the largest input width of an engine; and its samples.
RENDER_WIDTH_PX, RENDER_SAMPLES = 2048, 64

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


def layer_property() -> StringProperty:
    return StringProperty(
        name="Layer",
        description="Layer or part of an EXR. Empty: the one that shows light (Combined, beauty, RGBA)",
        search=lambda settings, _context, _text: layers(settings),
        search_options={"SUGGESTION"},
    )


def layers(settings: bpy.types.PropertyGroup) -> list[str]:
    """Return the names of the layers with colour in the source's file; none where it has only one."""
    path = None
    if settings.source == "FILE" and settings.filepath:
        path = Path(bpy.path.abspath(settings.filepath))
    elif settings.source == "IMAGE" and settings.image is not None and not settings.image.packed_file:
        path = image_file(settings.image)
    names = layer_names(path) if path is not None else []
    return names if len(names) > 1 else []


def render_width_property() -> IntProperty:
    return IntProperty(
        name="Width",
        description="Width of a rendered panorama, twice its height",
        default=RENDER_WIDTH_PX,
        min=2,
        soft_min=512,
        max=MAX_PANORAMA_WIDTH,
        step=512,
        subtype="PIXEL",
    )


def render_samples_property() -> IntProperty:
    return IntProperty(
        name="Samples",
        description="Samples of a rendered panorama: more have less noise and take longer",
        default=RENDER_SAMPLES,
        min=1,
        soft_max=4096,
    )


def repair_property() -> BoolProperty:
    return BoolProperty(
        name="Repair Pixels",
        description="Replace negative, infinite and NaN pixels. Otherwise, a panorama with such pixels is rejected",
    )
