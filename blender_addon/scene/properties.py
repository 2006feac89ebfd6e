"""The scene properties that panel and operators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty

from ...shared.jobs.scene import (
    DEFAULT_TEXTURE_WIDTH,
    DEFAULT_TRIANGLES,
    MAX_TEXTURE_WIDTH,
    MAX_TRIANGLES,
    MIN_TRIANGLES,
    SceneSettings,
    check_scene,
)
from . import environment, world

KINDS = (
    ("MESH", "Mesh", "A mesh in metres, torn at edges, with open sky and textures as sharp as the panorama"),
    ("OBJECTS", "Objects", "A mesh, with each thing in the semantic map as an object of its own that can be moved"),
    ("DOME", "Dome", "A sphere displaced by the distance map, adjustable afterwards; lit through its surface"),
)


def kind_property() -> EnumProperty:
    return EnumProperty(name="Kind", description="What is built from the maps", items=KINDS)


def camera_height_property() -> FloatProperty:
    return FloatProperty(
        name="Camera Height",
        description="Height of the camera above the floor. Sets the scale of the scene and puts the floor at Z = 0",
        subtype="DISTANCE",
        unit="LENGTH",
        default=1.6,
        min=0.01,
        soft_max=10,
    )


def detail_property() -> IntProperty:
    return IntProperty(
        name="Triangles",
        description="The largest number of triangles of the mesh",
        default=DEFAULT_TRIANGLES,
        min=MIN_TRIANGLES,
        max=MAX_TRIANGLES,
        step=10_000,
    )


def texture_width_property() -> IntProperty:
    return IntProperty(
        name="Texture Width",
        description="The largest width of textures; they are no larger than the panorama",
        default=DEFAULT_TEXTURE_WIDTH,
        min=1024,
        max=MAX_TEXTURE_WIDTH,
        subtype="PIXEL",
    )


def level_floor_property() -> BoolProperty:
    return BoolProperty(
        name="Level Floor",
        description="Turn a mesh or dome and its world so that the floor is level, where its tilt is certain. "
        "Scenes from a render stay as they are",
        default=True,
    )


def align_walls_property() -> BoolProperty:
    return BoolProperty(
        name="Align Walls",
        description="Turn a mesh and its world about Z so that most walls stand along X and Y. "
        "Scenes from a render stay as they are",
    )


def match_panorama_property() -> BoolProperty:
    return BoolProperty(
        name="Match Panorama",
        description="Change a model's albedo so that a mesh, under its own light, looks like the panorama. "
        "Maps of your own stay as they are",
        default=True,
    )


def replace_earlier_property() -> BoolProperty:
    return BoolProperty(
        name="Replace Earlier",
        description="Building again from the same panorama removes what was built from it before, with its world, "
        "and stands where you have moved that. What you have added stays",
    )


def _rotation(settings: bpy.types.PropertyGroup) -> float:
    found = world.rotation(settings.id_data.world)
    return 0.0 if found is None else found.to_euler().z


def _set_rotation(settings: bpy.types.PropertyGroup, angle: float) -> None:
    environment.turn(settings.id_data, angle - _rotation(settings))


def rotation_property() -> FloatProperty:
    return FloatProperty(
        name="Rotation",
        description="Rotation of Panoform's world about the vertical axis, with the environments that stand as it does",
        subtype="ANGLE",
        unit="ROTATION",
        get=_rotation,
        set=_set_rotation,
    )


def scale_property() -> FloatProperty:
    return FloatProperty(
        name="Scale",
        description="Metres per unit of distance. 0: by the length measured in the last scene from these maps, "
        "else by the camera's height",
        options={"SKIP_SAVE"},
        min=0,
        max=1e6,
        precision=4,
    )


def settings_from(get: Callable[[str], Any]) -> SceneSettings:
    """Return the settings of a mesh from properties, which `get` reads by name. Raise SettingError."""
    settings = SceneSettings(
        camera_height_m=get("camera_height"),
        max_triangles=get("detail"),
        texture_width=get("texture_width"),
        level_floor=get("level_floor"),
        align_walls=get("align_walls"),
        match_panorama=get("match_panorama"),
        objects=get("kind") == "OBJECTS",
    )
    check_scene(settings)
    return settings
