"""Panorama → world: Rotation (Mapping) → Environment Texture → Background, whose Strength is the other control."""

from __future__ import annotations

import bpy
from mathutils import Matrix

#: Where the Rotation of a world that `create` made is: Euler angles of its inverse, as the node turns the direction
#: that is looked up, so that the picture turns the other way.
ROTATION = 'node_tree.nodes["Rotation"].inputs["Rotation"].default_value'
#: Custom property of an object: the one world that it is shown and rendered in.
ONLY_IN = "panoform_only_in"


def create(name: str, image: bpy.types.Image, world_from_panorama: Matrix) -> bpy.types.World:
    """A new world that shows `image`, turned by the rotation of `world_from_panorama` (4 × 4)."""
    world = bpy.data.worlds.new(name)
    if bpy.app.version < (5, 0):
        world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()

    coordinates = tree.nodes.new("ShaderNodeTexCoord")
    rotation = tree.nodes.new("ShaderNodeMapping")
    rotation.name = rotation.label = "Rotation"
    rotation.inputs["Rotation"].default_value = world_from_panorama.to_3x3().inverted().to_euler()
    environment = tree.nodes.new("ShaderNodeTexEnvironment")
    environment.image = image
    background = tree.nodes.new("ShaderNodeBackground")
    background.name = background.label = "Strength"
    output = tree.nodes.new("ShaderNodeOutputWorld")
    for i, node in enumerate((coordinates, rotation, environment, background, output)):
        node.location = (i * 260 - 520, 0)

    tree.links.new(coordinates.outputs["Generated"], rotation.inputs["Vector"])
    tree.links.new(rotation.outputs["Vector"], environment.inputs["Vector"])
    tree.links.new(environment.outputs["Color"], background.inputs["Color"])
    tree.links.new(background.outputs["Background"], output.inputs["Surface"])
    return world


def assign(scene: bpy.types.Scene, world: bpy.types.World) -> None:
    """Make `world` the scene's. The one before stays in the file: it keeps a fake user.

    Objects that are made for one world only (ONLY_IN: its sun) are shown and rendered if it is this one.
    """
    if scene.world is not None:
        scene.world.use_fake_user = True
    scene.world = world
    for thing in scene.objects:
        if ONLY_IN in thing:
            thing.hide_viewport = thing.hide_render = thing[ONLY_IN] != world
