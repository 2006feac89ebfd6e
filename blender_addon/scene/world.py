"""Panorama → world: Rotation (Mapping) → Environment Texture → Background, whose Strength is the other control."""

from __future__ import annotations

import bpy
from mathutils import Euler, Matrix

from ..capture import sources
from . import light_probe

#: Data path of the Rotation in a world made by `create`. It holds the Euler angles of the inverse rotation, because the
#: Mapping node rotates the lookup direction, not the image.
ROTATION = 'node_tree.nodes["Rotation"].inputs["Rotation"].default_value'
#: Custom property of worlds that `create` made, and of scenes: the world before these, absent if there was none.
_MADE, _OWN = "panoform_made", "panoform_own_world"
#: Custom properties of a world that is shown for a moment: its marker, and the world in whose place it is.
IS_PREVIEW, INSTEAD_OF = "panoform_preview", "panoform_instead_of"
#: Width of the map by which Cycles finds bright light, in pixels: a third of the sun's width. With its own choice, up
#: to 4096, a render starts a second later (bpy 4.5, two cores: 2.4 instead of 1.2 s) and has as much noise (0.049).
_IMPORTANCE_MAP_PX = 2048
#: Custom property of an object: the only world in which it is visible.
ONLY_IN = "panoform_only_in"


def create(
    name: str, image: bpy.types.Image, world_from_panorama: Matrix, light: bpy.types.Image | None = None
) -> bpy.types.World:
    """Create a world that shows `image`, rotated by `world_from_panorama` (4 × 4).

    `light`: what lights the scene in Cycles, where that is not what the camera sees. In EEVEE no wall would shade it,
    so there the image lights all.
    """
    world = bpy.data.worlds.new(name)
    world[_MADE] = True
    if "cycles" in bpy.context.preferences.addons:
        world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", _IMPORTANCE_MAP_PX
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
    if light is not None:
        output.target = "EEVEE"
        _light_in_cycles(world, light)
        output.is_active_output = True
    return world


def _light_in_cycles(world: bpy.types.World, light: bpy.types.Image) -> None:
    """Add an output for Cycles: the background to the camera, and `light`, as strong, to everything else."""
    tree = world.node_tree
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = light
    background = tree.nodes.new("ShaderNodeBackground")
    # One value for both; a driver would make Blender warn of a cycle.
    strength = tree.nodes.new("ShaderNodeValue")
    strength.outputs["Value"].default_value = 1.0
    path = tree.nodes.new("ShaderNodeLightPath")
    mix = tree.nodes.new("ShaderNodeMixShader")
    output = tree.nodes.new("ShaderNodeOutputWorld")
    output.target = "CYCLES"
    for i, (node, name) in enumerate(
        (
            (strength, " Strength"),
            (texture, ""),
            (background, " Background"),
            (path, " Path"),
            (mix, " Mix"),
            (output, " Output"),
        )
    ):
        node.name = node.label = f"{sources.LIGHT}{name}"
        node.location = (i * 200, -400)
    tree.links.new(tree.nodes["Rotation"].outputs["Vector"], texture.inputs["Vector"])
    tree.links.new(texture.outputs["Color"], background.inputs["Color"])
    tree.links.new(path.outputs["Is Camera Ray"], mix.inputs[0])
    tree.links.new(background.outputs["Background"], mix.inputs[1])
    tree.links.new(tree.nodes["Strength"].outputs["Background"], mix.inputs[2])
    tree.links.new(mix.outputs["Shader"], output.inputs["Surface"])
    tree.links.new(strength.outputs["Value"], background.inputs["Strength"])
    tree.links.new(strength.outputs["Value"], tree.nodes["Strength"].inputs["Strength"])


def assign(scene: bpy.types.Scene, world: bpy.types.World | None) -> None:
    """Make `world` the scene's world. The previous one gets a fake user, so that it stays in the file; if it is the
    user's own, `restore` returns to it.

    Objects that belong to one world (ONLY_IN, such as its sun) are hidden unless it is this one.
    """
    former = scene.world
    if former is not None and IS_PREVIEW in former:
        former = former.get(INSTEAD_OF)
    if former is not None:
        former.use_fake_user = True
    if not is_made(former):
        set_own(scene, former)
    scene.world = world
    if is_made(world):
        light_probe.remember(world)
    for found in scene.objects:
        if ONLY_IN in found:
            found.hide_viewport = found.hide_render = found[ONLY_IN] != world


def own(scene: bpy.types.Scene) -> bpy.types.World | None:
    """Return the world that `restore` returns to; None if there is none."""
    return scene.get(_OWN)


def set_own(scene: bpy.types.Scene, world: bpy.types.World | None) -> None:
    """Set the world that `restore` returns to."""
    if world is None:
        scene.pop(_OWN, None)
    else:
        scene[_OWN] = world


def is_made(world: bpy.types.World | None) -> bool:
    """Return whether `create` made this world, and not as a preview."""
    return world is not None and _MADE in world and IS_PREVIEW not in world


def restore(scene: bpy.types.Scene) -> None:
    """Return from a world made by `create` to the scene's own, or to none if it had none."""
    assign(scene, own(scene))


def light_image(world: bpy.types.World) -> bpy.types.Image | None:
    """Return the image that lights the scene in Cycles, in a world made by `create`; None if its nodes were changed."""
    if not is_made(world):
        return None
    textures = [node for node in world.node_tree.nodes if node.bl_idname == "ShaderNodeTexEnvironment"]
    return next((node.image for node in sorted(textures, key=lambda node: node.name != sources.LIGHT)), None)


def strength(world: bpy.types.World) -> bpy.types.NodeSocket | None:
    """Return the socket whose value is the strength of a world made by `create`; None if its nodes were changed."""
    nodes = world.node_tree.nodes
    both, one = nodes.get(f"{sources.LIGHT} Strength"), nodes.get("Strength")
    return both.outputs[0] if both is not None else one.inputs["Strength"] if one is not None else None


def rotation(world: bpy.types.World | None) -> Matrix | None:
    """Return the rotation, 4 × 4, of the panorama in a world made by `create`; None if its nodes were changed."""
    node = world.node_tree.nodes.get("Rotation") if is_made(world) else None
    if node is None:
        return None
    return Euler(node.inputs["Rotation"].default_value).to_matrix().inverted().to_4x4()


def set_rotation(world: bpy.types.World, world_from_panorama: Matrix) -> None:
    """Rotate the panorama in a world made by `create`, whose `rotation` is known."""
    inverse = world_from_panorama.to_3x3().inverted()
    world.node_tree.nodes["Rotation"].inputs["Rotation"].default_value = inverse.to_euler()
