"""Replace the sun in the scene's HDRI by a Sun lamp."""

from __future__ import annotations

from collections.abc import Callable

import bpy
from mathutils import Vector

from ...shared.imaging.sun import split_sun
from ..capture import pixels, sources
from ..scene import images, world
from ..scene.datablocks import all_or_nothing

NAME = "Panoform Sun"
#: Custom property of the lamp object: the image that the sun comes from.
_SUN_IMAGE = "panoform_sun_of"
#: Distance of the lamp object from the origin in metres; it does not affect the light.
_LAMP_DISTANCE_M = 10.0


def split(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """Add a Sun lamp for the sun in the world's HDRI, and make the HDRI without the sun, a packed image, the scene's
    world.

    World and lamp together light every surface as before. The lamp rotates with that world, and is hidden while the
    scene uses another one (`scene.world.assign`). A scene has one lamp for each image; splitting again updates it.
    Return the lamp, or None without changing anything if the HDRI has no distinct sun.
    Raise SceneError (`capture.world_image`, `world_strength`), PanoramaError (`pixels.read_light`).
    """
    strength = sources.world_strength(scene)
    image, world_from_panorama = sources.world_image(scene)
    light = pixels.read_light(image)
    rest, sun = split_sun(light)
    if sun is None:
        return None
    name = f"{sources.stem(image)} without sun"
    earlier = next((found for found in scene.objects if found.get(_SUN_IMAGE) == image), None)
    with all_or_nothing(scene, None if earlier is None else _restorer(earlier)):
        shown = world.create(f"Panoform {name}", images.create_float(name, rest, "Linear Rec.709"), world_from_panorama)
        world.assign(scene, shown)
        shown.node_tree.nodes["Strength"].inputs["Strength"].default_value = strength

        lamp = earlier or _new(scene, image)
        lamp[world.ONLY_IN] = shown
        lamp.hide_viewport = lamp.hide_render = False
        direction = world_from_panorama.to_3x3() @ Vector(sun.direction)
        lamp.location = direction * _LAMP_DISTANCE_M
        _aim(lamp, direction, shown)
        lamp.data.energy = sun.irradiance * strength
        lamp.data.color, lamp.data.angle = sun.colour, sun.diameter_rad
    return lamp


def _aim(lamp: bpy.types.Object, direction: Vector, shown: bpy.types.World) -> None:
    """Point the lamp along -`direction`, and drive its Z rotation by that of the world."""
    lamp.driver_remove("rotation_euler", 2)
    lamp.rotation_mode = "XYZ"
    lamp.rotation_euler = direction.to_track_quat("Z", "Y").to_euler("XYZ")  # a Sun lamp shines along its -Z
    x, y, z = shown.path_resolve(world.ROTATION)
    if max(abs(x), abs(y)) > 1e-6:
        return  # in a tilted world, Z is not the vertical axis
    _drive(lamp, shown, f"{lamp.rotation_euler.z + z:.9f} - turn")


def _drive(lamp: bpy.types.Object, shown: bpy.types.World, expression: str) -> None:
    """Drive the lamp's Z rotation by `expression`, in which `turn` is that of the world."""
    driver = lamp.driver_add("rotation_euler", 2).driver
    turn = driver.variables.new()
    turn.name = "turn"
    target = turn.targets[0]
    target.id_type, target.id, target.data_path = "WORLD", shown, f"{world.ROTATION}[2]"
    driver.expression = expression


def _restorer(lamp: bpy.types.Object) -> Callable[[], None]:
    """Return a function that gives a lamp of an earlier split what it has now."""
    light, shown = lamp.data, lamp.get(world.ONLY_IN)
    place = lamp.location.copy(), lamp.rotation_mode, lamp.rotation_euler.copy()
    shines = light.energy, light.color.copy(), light.angle
    curves = lamp.animation_data.drivers if lamp.animation_data else ()
    drivers = [curve.driver for curve in curves if (curve.data_path, curve.array_index) == ("rotation_euler", 2)]
    driven = [(one.variables[0].targets[0].id, one.expression) for one in drivers if len(one.variables) == 1]

    def restore() -> None:
        lamp.driver_remove("rotation_euler", 2)
        lamp.location, lamp.rotation_mode, lamp.rotation_euler = place
        light.energy, light.color, light.angle = shines
        lamp[world.ONLY_IN] = shown
        for driver in driven:
            _drive(lamp, *driver)

    return restore


def _new(scene: bpy.types.Scene, image: bpy.types.Image) -> bpy.types.Object:
    lamp = bpy.data.objects.new(NAME, bpy.data.lights.new(NAME, "SUN"))
    lamp[_SUN_IMAGE] = image
    scene.collection.objects.link(lamp)
    return lamp
