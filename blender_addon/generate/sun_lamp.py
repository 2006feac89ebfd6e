"""The sun in the scene's HDRI → a Sun lamp, and a world without it."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Vector

from ...shared.imaging.colour import linear_from_srgb
from ...shared.imaging.sun import split_sun
from ...shared.protocol.errors import PanoramaError
from ..capture import pixels, sources
from ..scene import world
from . import panoramas

NAME = "Panoform Sun"
#: Custom property of the lamp's object: the image whose sun it is.
_SUN_OF = "panoform_sun_of"
#: How far from the origin a lamp is put, in metres: its light is the same everywhere.
_FAR_M = 10.0


def split(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """Give the scene a lamp for the sun in its world's HDRI, and a world without that sun, from an EXR of its own.

    World and lamp together give every surface the light it had. The lamp turns with that world and shines while it is
    the scene's (`scene.world.assign`). A scene has one lamp for the sun of one image: split again, it is set anew.
    Returns the lamp, or None, and all is as it was, where no sun stands out.
    Raises SceneError (`capture.world_image`, `world_strength`), PanoramaError (`pixels.read`; for infinite or NaN
    pixels), OutputError.
    """
    strength = sources.world_strength(scene)
    image, world_from_panorama = sources.world_image(scene)
    colours = pixels.read(image)
    light = linear_from_srgb(colours.pixels) if colours.encoding == "srgb" else colours.pixels
    if not np.isfinite(light).all():
        raise PanoramaError(
            f"The image {image.name!r} has infinite or NaN pixels.", "Repair them, or choose another one."
        )
    rest, sun = split_sun(light)
    if sun is None:
        return None
    path = panoramas.free_path(panoramas.folder(scene), sources.stem(image), "without sun")
    panoramas.write_light(path, rest)
    shown = panoramas.show(scene, path, world_from_panorama)
    shown.node_tree.nodes["Strength"].inputs["Strength"].default_value = strength

    lamp = next((thing for thing in scene.objects if thing.get(_SUN_OF) == image), None) or _new(scene, image)
    lamp[world.ONLY_IN] = shown
    lamp.hide_viewport = lamp.hide_render = False
    direction = world_from_panorama.to_3x3() @ Vector(sun.direction)
    lamp.location = direction * _FAR_M
    _aim(lamp, direction, shown)
    lamp.data.energy = sun.irradiance * strength
    lamp.data.color, lamp.data.angle = sun.colour, sun.diameter_rad
    return lamp


def _aim(lamp: bpy.types.Object, direction: Vector, shown: bpy.types.World) -> None:
    """Point it along -`direction`, and have the world's turn about the vertical turn it too."""
    lamp.driver_remove("rotation_euler", 2)
    lamp.rotation_mode = "XYZ"
    lamp.rotation_euler = direction.to_track_quat("Z", "Y").to_euler("XYZ")  # it shines along its -Z
    x, y, z = shown.path_resolve(world.ROTATION)
    if max(abs(x), abs(y)) > 1e-6:
        return  # of a world that leans, the Z is another axis
    driver = lamp.driver_add("rotation_euler", 2).driver
    turn = driver.variables.new()
    turn.name = "turn"
    target = turn.targets[0]
    target.id_type, target.id, target.data_path = "WORLD", shown, f"{world.ROTATION}[2]"
    driver.expression = f"{lamp.rotation_euler.z + z:.9f} - turn"


def _new(scene: bpy.types.Scene, image: bpy.types.Image) -> bpy.types.Object:
    lamp = bpy.data.objects.new(NAME, bpy.data.lights.new(NAME, "SUN"))
    lamp[_SUN_OF] = image
    scene.collection.objects.link(lamp)
    return lamp
