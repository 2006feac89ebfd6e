"""Skies of open places by weather and time of day: clear, fair, veiled, overcast, sunset, dusk and night."""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import bpy
import numpy as np

from .materials import Colour, shade


@dataclass(frozen=True)
class Weather:
    """How a sky looks; colours are linear, `cover` is the share of clouds, roughly, in [0, 1]."""

    horizon: Colour
    zenith: Colour
    #: Clouds' colours, where they are thin and thick.
    clouds: tuple[Colour, Colour]
    cover: float
    #: Width of the clouds' edges, in [0, 1].
    soft: float
    brightness: float
    #: W/m², elevation in radians, and colour; a disc of `sun_angle` radians.
    sun: float
    elevation: float
    sun_colour: Colour
    sun_angle: float
    #: Colour and strength of the glow around the sun.
    glow: float
    night: bool = False


def _grey(value: float, rng: np.random.Generator) -> Colour:
    """Return a slightly tinted grey, bluish or warm."""
    hue = 0.6 if rng.uniform() < 0.7 else 0.09
    return colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.15), value)


def _blue(rng: np.random.Generator, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(0.54, 0.64), saturation, value)


def _warm(rng: np.random.Generator, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(-0.04, 0.12) % 1, saturation, value)


def choose(rng: np.random.Generator) -> Weather:
    """Return random weather. About a quarter is overcast, which resembles a white ceiling most."""
    u = rng.uniform
    kind = rng.choice(7, p=(0.16, 0.22, 0.1, 0.25, 0.12, 0.07, 0.08))
    if kind <= 2:  # clear, fair with distinct clouds, veiled by thin ones
        zenith = _blue(rng, u(0.4, 0.9), u(0.15, 0.7))
        bright = _grey(u(0.7, 1.0), rng)
        return Weather(
            horizon=_grey(u(0.5, 0.95), rng) if u() < 0.7 else _blue(rng, u(0.1, 0.5), u(0.5, 0.9)), zenith=zenith,
            clouds=(bright, shade(bright, u(0.35, 0.9))), cover=(0.0, u(0.25, 0.7), u(0.4, 0.9))[kind],
            soft=(0.1, u(0.03, 0.2), u(0.4, 0.9))[kind], brightness=u(0.5, 1.6), sun=u(2, 7) * (1, 1, 0.4)[kind],
            elevation=u(0.15, 1.4), sun_colour=(1, u(0.85, 1), u(0.65, 1)), sun_angle=u(0.005, 0.06), glow=u(0, 0.6),
        )  # fmt: skip
    if kind == 3:  # from uniform to heavy with dark clouds; the zenith up to three times as bright as the horizon
        zenith = _grey(u(0.5, 1.0), rng)
        even = rng.uniform() < 0.5
        return Weather(
            horizon=shade(zenith, u(0.33, 1.2)), zenith=zenith,
            clouds=(shade(zenith, u(0.9, 1.1)), shade(zenith, u(0.9, 1.0) if even else u(0.4, 0.9))), cover=u(0.6, 1),
            soft=u(0.3, 1), brightness=u(0.4, 1.6), sun=u(0, 0.6) * rng.choice([0, 1]), elevation=u(0.3, 1.4),
            sun_colour=(1, 1, 1), sun_angle=u(0.2, 0.6), glow=u(0, 0.3),
        )  # fmt: skip
    if kind == 4:  # sunset or sunrise
        return Weather(
            horizon=_warm(rng, u(0.3, 0.8), u(0.4, 0.95)), zenith=_blue(rng, u(0.2, 0.7), u(0.1, 0.5)),
            clouds=(_warm(rng, u(0.1, 0.6), u(0.4, 0.9)), _grey(u(0.1, 0.5), rng)), cover=u(0, 0.9), soft=u(0.05, 0.7),
            brightness=u(0.3, 1), sun=u(0.3, 4), elevation=u(0.01, 0.25), sun_colour=_warm(rng, u(0.2, 0.6), 1),
            sun_angle=u(0.005, 0.05), glow=u(0.3, 3),
        )  # fmt: skip
    if kind == 5:  # dusk
        return Weather(
            horizon=_warm(rng, u(0.1, 0.6), u(0.2, 0.8)), zenith=_blue(rng, u(0.4, 0.85), u(0.08, 0.4)),
            clouds=(_grey(u(0.1, 0.4), rng), _blue(rng, u(0.2, 0.5), u(0.05, 0.2))), cover=u(0, 0.9), soft=u(0.1, 0.8),
            brightness=u(0.05, 0.3), sun=0, elevation=0.02, sun_colour=(1, 1, 1), sun_angle=0.1, glow=u(0, 1),
            night=bool(u() < 0.7),
        )  # fmt: skip
    dark = _blue(rng, u(0.1, 0.8), u(0.1, 0.5))
    lit = _warm(rng, u(0.2, 0.7), u(0.2, 1))  # by a town
    return Weather(
        horizon=lit if u() < 0.5 else dark, zenith=dark, clouds=(lit, shade(dark, 0.5)), cover=u(0, 0.8),
        soft=u(0.1, 0.8), brightness=u(0.002, 0.05), sun=u(0, 0.05) * rng.choice([0, 1]), elevation=u(0.3, 1.3),
        sun_colour=(0.8, 0.9, 1), sun_angle=0.01, glow=0, night=True,
    )  # fmt: skip


def sky(rng: np.random.Generator) -> Weather:
    """Create the world and the sun of random weather, and return it. Clouds lie in a plane, or all around."""
    weather, turn = choose(rng), float(rng.uniform(0, 2 * np.pi))
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()

    def add(kind: str, *inputs, **settings):
        """Add a node with attributes; inputs, in order, are values, sockets to link, or None."""
        node = tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        for index, value in enumerate(inputs):
            if isinstance(value, bpy.types.NodeSocket):
                tree.links.new(value, node.inputs[index])
            elif value is not None:
                node.inputs[index].default_value = value
        return node

    def mix(factor, a, b):
        node = add("ShaderNodeMix", data_type="RGBA")
        for index, value in ((0, factor), (6, a), (7, b)):
            if isinstance(value, bpy.types.NodeSocket):
                tree.links.new(value, node.inputs[index])
            else:
                node.inputs[index].default_value = (*value, 1)
        return node.outputs[2]

    def noise(vector, scale: float, detail: float, low: float, high: float):
        texture = add("ShaderNodeTexNoise", vector)
        texture.inputs["Scale"].default_value, texture.inputs["Detail"].default_value = scale, detail
        spread = add("ShaderNodeMapRange", texture.outputs["Fac"])
        spread.inputs["From Min"].default_value, spread.inputs["From Max"].default_value = low, high
        return spread.outputs[0]

    direction = add("ShaderNodeTexCoord").outputs["Generated"]
    x, y, z = add("ShaderNodeSeparateXYZ", direction).outputs
    ramp = add("ShaderNodeValToRGB", z)
    ramp.color_ramp.elements[0].color = (*weather.horizon, 1)
    ramp.color_ramp.elements[1].color = (*weather.zenith, 1)
    ramp.color_ramp.elements[1].position = rng.uniform(0.15, 1)
    vector = direction
    if rng.uniform() < 0.6:
        above = add("ShaderNodeMath", add("ShaderNodeMath", z, 0.0, operation="MAXIMUM").outputs[0], 0.12)
        flat = [add("ShaderNodeMath", part, above.outputs[0], operation="DIVIDE").outputs[0] for part in (x, y)]
        vector = add("ShaderNodeCombineXYZ", flat[0], flat[1], float(rng.uniform(0, 50))).outputs[0]
    else:
        vector = add("ShaderNodeMapping", direction, tuple(rng.uniform(0, 50, 3).tolist())).outputs[0]
    scale = float(np.exp(rng.uniform(np.log(0.6), np.log(4))))
    start = 0.72 - 0.45 * weather.cover
    amount = noise(vector, scale, float(rng.integers(2, 7)), start, start + 0.05 + 0.4 * weather.soft)
    thick = noise(vector, scale * float(rng.uniform(0.7, 2)), 4.0, 0.35, 0.65)
    colour = mix(amount, ramp.outputs[0], mix(thick, *weather.clouds)) if weather.cover else ramp.outputs[0]
    sunwards = (
        float(np.sin(turn) * np.cos(weather.elevation)),
        float(-np.cos(turn) * np.cos(weather.elevation)),
        float(np.sin(weather.elevation)),
    )
    if weather.glow:
        cosine = add("ShaderNodeVectorMath", direction, sunwards, operation="DOT_PRODUCT").outputs["Value"]
        positive = add("ShaderNodeMath", cosine, 0.0, operation="MAXIMUM").outputs[0]
        power = add("ShaderNodeMath", positive, float(rng.uniform(4, 40)), operation="POWER").outputs[0]
        colour = mix(power, colour, tuple(c * (0.6 + weather.glow) for c in weather.sun_colour))
    background = add("ShaderNodeBackground", colour, weather.brightness)
    add("ShaderNodeOutputWorld", background.outputs[0])
    if weather.sun:
        sun = bpy.data.lights.new("sun", "SUN")
        sun.energy, sun.angle, sun.color = weather.sun, weather.sun_angle, weather.sun_colour
        thing = bpy.data.objects.new("sun", sun)
        thing.rotation_euler = (np.pi / 2 - weather.elevation, 0, turn)
        bpy.context.scene.collection.objects.link(thing)
    return weather
