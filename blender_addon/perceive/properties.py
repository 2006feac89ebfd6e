"""What the panel edits: one group of settings a scene, `scene.panoform`."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...shared.maps import DEFAULT_MAPS, MAPS
from ..generate.properties import EditProperties, GenerateProperties
from ..ui.engine_properties import engine_property, quality_property

SOURCES = (
    ("WORLD", "World HDRI", "The environment texture of the scene's world"),
    ("IMAGE", "Image", "An equirectangular image of this file"),
    ("FILE", "File", "An equirectangular picture on disk"),
    ("RENDER_CAMERA", "Render from Camera", "The scene, rendered as a panorama from where its camera stands"),
    ("RENDER_CURSOR", "Render from 3D Cursor", "The scene, rendered as a panorama from the 3D cursor"),
)
MAP_ITEMS = tuple(
    (name.upper(), kind.label, kind.meaning.capitalize(), 2**i) for i, (name, kind) in enumerate(MAPS.items())
)


def source_property() -> EnumProperty:
    return EnumProperty(name="Source", description="Where the panorama comes from", items=SOURCES)


def filepath_property() -> StringProperty:
    return StringProperty(name="File", description="EXR, HDR, PNG, JPEG, TIFF or WebP, 2:1", subtype="FILE_PATH")


def maps_property() -> EnumProperty:
    return EnumProperty(
        name="Maps",
        description="What to perceive",
        items=MAP_ITEMS,
        options={"ENUM_FLAG"},
        default={name.upper() for name in DEFAULT_MAPS},
    )


def seed_property() -> IntProperty:
    return IntProperty(name="Seed", description="The same seed gives the same maps", soft_min=0)


def repair_property() -> BoolProperty:
    return BoolProperty(
        name="Repair Pixels",
        description="Replace negative, infinite and NaN pixels. Off: refuse such a panorama",
    )


def camera_height_property() -> FloatProperty:
    return FloatProperty(
        name="Camera Height",
        description="How high over the floor the panorama was taken: it gives the size, and puts the floor at Z = 0",
        subtype="DISTANCE",
        unit="LENGTH",
        default=1.6,
        min=0.01,
        soft_max=10,
    )


class PanoformSettings(bpy.types.PropertyGroup):
    source: source_property()
    image: PointerProperty(name="Image", description="An equirectangular image, 2:1", type=bpy.types.Image)
    filepath: filepath_property()
    maps: maps_property()
    quality: quality_property()
    seed: seed_property()
    engine: engine_property()
    repair: repair_property()
    camera_height: camera_height_property()
    generate: PointerProperty(type=GenerateProperties)
    edit: PointerProperty(type=EditProperties)


def register() -> None:
    bpy.utils.register_class(PanoformSettings)
    bpy.types.Scene.panoform = PointerProperty(type=PanoformSettings)


def unregister() -> None:
    del bpy.types.Scene.panoform
    bpy.utils.unregister_class(PanoformSettings)
