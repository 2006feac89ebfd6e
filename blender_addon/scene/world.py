"""Panorama → world: Rotation (Mapping) → Environment Texture → Background, whose Strength is the other control."""

from __future__ import annotations

import bpy
from mathutils import Matrix

from ..capture import sources

#: Data path of the Rotation in a world made by `create`. It holds the Euler angles of the inverse rotation, because the
#: Mapping node rotates the lookup direction, not the image.
ROTATION = 'node_tree.nodes["Rotation"].inputs["Rotation"].default_value'
#: Custom property of an object: the only world in which it is visible.
ONLY_IN = "panoform_only_in"


def create(
    name: str, image: bpy.types.Image, world_from_panorama: Matrix, light: bpy.types.Image | None = None
) -> bpy.types.World:
    """Create a world that shows `image`, rotated by `world_from_panorama` (4 × 4).

    `light`: what lights the scene, where that is not what the camera sees.
    """
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
    colour = environment.outputs["Color"]
    if light is not None:
        colour = _only_seen(tree, colour, rotation.outputs["Vector"], light)
    tree.links.new(colour, background.inputs["Color"])
    tree.links.new(background.outputs["Background"], output.inputs["Surface"])
    return world


def _only_seen(
    tree: bpy.types.NodeTree, seen: bpy.types.NodeSocket, vector: bpy.types.NodeSocket, light: bpy.types.Image
) -> bpy.types.NodeSocket:
    """Return `seen` for rays from the camera, `light` for others."""
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    texture.name = texture.label = sources.LIGHT
    texture.image = light
    path = tree.nodes.new("ShaderNodeLightPath")
    mix = tree.nodes.new("ShaderNodeMixRGB")
    for node, name, y in ((path, "Light Path", 300), (mix, "Camera", 0)):
        node.name = node.label = f"{sources.LIGHT} {name}"
        node.location = (130, y)
    texture.location = (0, -300)
    tree.links.new(vector, texture.inputs["Vector"])
    tree.links.new(path.outputs["Is Camera Ray"], mix.inputs["Fac"])
    tree.links.new(texture.outputs["Color"], mix.inputs["Color1"])
    tree.links.new(seen, mix.inputs["Color2"])
    return mix.outputs["Color"]


def assign(scene: bpy.types.Scene, world: bpy.types.World) -> None:
    """Make `world` the scene's world. The previous one gets a fake user, so that it stays in the file.

    Objects that belong to one world (ONLY_IN, such as its sun) are hidden unless it is this one.
    """
    if scene.world is not None:
        scene.world.use_fake_user = True
    scene.world = world
    for found in scene.objects:
        if ONLY_IN in found:
            found.hide_viewport = found.hide_render = found[ONLY_IN] != world
