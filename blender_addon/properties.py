"""The scene's settings, `scene.panoform`, composed of the properties of the features."""

from __future__ import annotations

import bpy
from bpy.props import PointerProperty

from .capture.properties import (
    filepath_property,
    layer_property,
    render_samples_property,
    render_width_property,
    repair_property,
    source_property,
)
from .generate.properties import EditProperties, GenerateProperties
from .perceive.properties import maps_property, seed_property
from .scene.properties import (
    align_walls_property,
    camera_height_property,
    detail_property,
    kind_property,
    level_floor_property,
    match_panorama_property,
    replace_earlier_property,
    rotation_property,
    texture_width_property,
)
from .texture.properties import TextureProperties
from .ui.engine_properties import engine_property, quality_property


class PanoformSettings(bpy.types.PropertyGroup):
    source: source_property()
    image: PointerProperty(name="Image", description="An equirectangular image, 2:1", type=bpy.types.Image)
    filepath: filepath_property()
    layer: layer_property()
    render_width: render_width_property()
    render_samples: render_samples_property()
    maps: maps_property()
    quality: quality_property()
    seed: seed_property()
    engine: engine_property()
    repair: repair_property()
    kind: kind_property()
    camera_height: camera_height_property()
    detail: detail_property()
    texture_width: texture_width_property()
    level_floor: level_floor_property()
    align_walls: align_walls_property()
    match_panorama: match_panorama_property()
    replace_earlier: replace_earlier_property()
    rotation: rotation_property()
    generate: PointerProperty(type=GenerateProperties)
    edit: PointerProperty(type=EditProperties)
    texture: PointerProperty(type=TextureProperties)


def register() -> None:
    bpy.utils.register_class(PanoformSettings)
    bpy.types.Scene.panoform = PointerProperty(type=PanoformSettings)


def unregister() -> None:
    del bpy.types.Scene.panoform
    bpy.utils.unregister_class(PanoformSettings)
