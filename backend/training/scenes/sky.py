"""Worlds: physical skies, clouds over a gradient, and night skies."""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import colorsys

import bpy
import numpy as np

from .materials import shade


def sky(rng: np.random.Generator, night: bool = False) -> float:
    """Create a physical sky, clouds over a gradient, or a night sky. Return its brightness, about 1 for a clear day."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()

    def add(kind: str, **settings):
        node = tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        return node

    background, output = add("ShaderNodeBackground"), add("ShaderNodeOutputWorld")
    tree.links.new(background.outputs[0], output.inputs[0])
    if not night and rng.uniform() < 0.4:
        node = add("ShaderNodeTexSky", sky_type="NISHITA", sun_disc=True)
        node.sun_elevation = rng.uniform(0.02, 1.4)
        node.sun_rotation = rng.uniform(0, 2 * np.pi)
        node.sun_intensity = rng.uniform(0.05, 1)
        node.air_density, node.dust_density = rng.uniform(0.5, 3), rng.uniform(0, 5)
        tree.links.new(node.outputs[0], background.inputs[0])
        background.inputs[1].default_value = rng.uniform(0.1, 0.3)
        return 1.0
    hue = rng.uniform(0.5, 0.68) if rng.uniform() < 0.7 else rng.uniform(0, 1)
    zenith = shade(colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9)), 1)
    horizon = colorsys.hsv_to_rgb(rng.choice([hue, 0.08, 0.12]), rng.uniform(0, 0.5), rng.uniform(0.5, 0.95))
    cloud = (rng.uniform(0.3, 0.95),) * 3
    coordinates = add("ShaderNodeTexCoord").outputs["Generated"]
    separate = add("ShaderNodeSeparateXYZ")
    tree.links.new(coordinates, separate.inputs[0])
    ramp = add("ShaderNodeValToRGB")
    tree.links.new(separate.outputs["Z"], ramp.inputs[0])
    ramp.color_ramp.elements[0].color = (*horizon, 1)
    ramp.color_ramp.elements[1].color = (*zenith, 1)
    ramp.color_ramp.elements[1].position = rng.uniform(0.2, 1)
    stretch = add("ShaderNodeMapping")
    stretch.inputs["Scale"].default_value = (1, 1, rng.uniform(1, 5))
    tree.links.new(coordinates, stretch.inputs[0])
    noise = add("ShaderNodeTexNoise")
    tree.links.new(stretch.outputs[0], noise.inputs["Vector"])
    noise.inputs["Scale"].default_value = rng.uniform(1, 6)
    noise.inputs["Detail"].default_value = 4
    cover = add("ShaderNodeMapRange")
    tree.links.new(noise.outputs["Fac"], cover.inputs["Value"])
    threshold = rng.uniform(0.3, 0.75)
    cover.inputs["From Min"].default_value, cover.inputs["From Max"].default_value = (
        threshold,
        threshold + rng.uniform(0.05, 0.4),
    )
    mix = add("ShaderNodeMix", data_type="RGBA")
    tree.links.new(cover.outputs[0], mix.inputs[0])
    tree.links.new(ramp.outputs[0], mix.inputs[6])
    mix.inputs[7].default_value = (*cloud, 1)
    tree.links.new(mix.outputs[2], background.inputs[0])
    brightness = float(rng.uniform(0.002, 0.05)) if night else float(rng.uniform(0.5, 1.5))
    background.inputs[1].default_value = brightness
    if not night and rng.uniform() < 0.6:
        sun = bpy.data.lights.new("sun", "SUN")
        sun.energy, sun.angle = rng.uniform(1, 6), rng.uniform(0.005, 0.1)
        sun.color = (1, rng.uniform(0.8, 1), rng.uniform(0.5, 1))
        thing = bpy.data.objects.new("sun", sun)
        thing.rotation_euler = (rng.uniform(-1.3, 1.3), 0, rng.uniform(0, 2 * np.pi))
        bpy.context.scene.collection.objects.link(thing)
    return brightness
