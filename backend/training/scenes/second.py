"""The second generator, for evaluation only, with different geometry and materials from catalogue.py's.

Vaulted rotundas, attics under a pitched roof, terraces by the sea, parking decks, and dunes with ruins; surfaces of
gradients, rings, dots and lines that the training scenes don't contain.
"""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import bpy
import numpy as np

from .build import Builder
from .materials import Graph, colour, shade

_RIM = 28


def _surface(rng: np.random.Generator, rough: tuple[float, float] = (0.1, 1.0)) -> bpy.types.Material:
    """Create a plain colour, rings, cells, magic texture, ridged noise, or tinted metal."""
    graph = Graph("second")
    base, other = colour(rng, 0.45), colour(rng, 0.45)
    kind = rng.integers(6)
    vector = graph.uv(float(rng.uniform(0.3, 2)), float(rng.uniform(0, 3)))
    if kind == 0:
        return graph.finish(base, float(rng.uniform(*rough)), 0.0)
    if kind == 1:
        node = graph.node(
            "ShaderNodeTexMagic", {"Vector": vector, "Scale": float(rng.uniform(1, 6))}, turbulence_depth=2
        )
        factor = graph.node("ShaderNodeRGBToBW", {"Color": node.outputs["Color"]}).outputs["Val"]
    elif kind == 2:
        factor = graph.node(
            "ShaderNodeTexWave", {"Vector": vector, "Scale": float(rng.uniform(0.5, 3))},
            wave_type="RINGS", wave_profile="SAW",
        ).outputs["Fac"]  # fmt: skip
    elif kind == 3:
        factor = graph.node(
            "ShaderNodeTexVoronoi", {"Vector": vector, "Scale": float(rng.uniform(1, 5))}, feature="SMOOTH_F1"
        ).outputs["Distance"]  # fmt: skip
    elif kind == 4:
        factor = graph.node(
            "ShaderNodeTexNoise", {"Vector": vector, "Scale": float(rng.uniform(1, 5))},
            noise_type="RIDGED_MULTIFRACTAL",
        ).outputs["Fac"]  # fmt: skip
    else:
        tint = shade((0.75, 0.72, 0.7), rng.uniform(0.5, 1.2))
        return graph.finish(tint, float(rng.uniform(0.1, 0.5)), 1.0)
    low, high = sorted(rng.uniform(*rough, 2).tolist())
    return graph.finish(
        graph.ramp(factor, [base, other if rng.uniform() < 0.4 else shade(base, 0.6)]),
        graph.scalar(factor, low, high),
        0.0,
    )


def _light(rng: np.random.Generator, strength: float) -> bpy.types.Material:
    """Create an emitter."""
    return Graph("light").finish((1, rng.uniform(0.7, 1), rng.uniform(0.5, 1)), 0.6, 0.0, emission=strength)


def _sky(rng: np.random.Generator, brightness: float) -> None:
    """Create a world with a soft bright gradient, and a sun."""
    world = bpy.data.worlds.new("heaven")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    background = tree.nodes["Background"]
    gradient = tree.nodes.new("ShaderNodeTexGradient")
    gradient.gradient_type = "SPHERICAL"
    mapping = tree.nodes.new("ShaderNodeMapping")
    mapping.inputs["Location"].default_value = (*rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.5, 0.5))
    mapping.inputs["Scale"].default_value = (0.6, 0.6, rng.uniform(0.6, 3))
    coordinates = tree.nodes.new("ShaderNodeTexCoord")
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color = (*colour(rng, 0.5, 0.1, 0.6), 1)
    ramp.color_ramp.elements[1].color = (*colour(rng, 0.1, 0.7, 0.95), 1)
    tree.links.new(coordinates.outputs["Generated"], mapping.inputs[0])
    tree.links.new(mapping.outputs[0], gradient.inputs[0])
    tree.links.new(gradient.outputs["Fac"], ramp.inputs[0])
    tree.links.new(ramp.outputs[0], background.inputs[0])
    background.inputs[1].default_value = brightness
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = rng.uniform(0, 5), 0.03
    thing = bpy.data.objects.new("sun", sun)
    thing.rotation_euler = (rng.uniform(-1.2, 1.2), rng.uniform(-0.5, 0.5), 0)
    bpy.context.scene.collection.objects.link(thing)


def _lathe(b: Builder, profile: list[tuple[float, float]], material, label: str, skip: tuple[int, ...] = ()) -> None:
    """Revolve a profile of (radius, z) about the camera's vertical; segments in `skip` stay open."""
    angle = np.arange(_RIM) / _RIM * 2 * np.pi
    rings = [np.c_[np.cos(angle) * r, np.sin(angle) * r, np.full(_RIM, z)] for r, z in profile]
    faces = [
        (k * _RIM + i, k * _RIM + (i + 1) % _RIM, (k + 1) * _RIM + (i + 1) % _RIM, (k + 1) * _RIM + i)
        for k in range(len(profile) - 1)
        for i in range(_RIM)
        if i not in skip
    ]
    b.mesh(np.concatenate(rings), faces, material, label)


def _props(b: Builder, count: int, near: float, far: float) -> None:
    """Add stacks of boxes, arches of blocks, balls on cones, and tables."""
    rng = b.rng
    for k in range(count):
        angle = 2.4 * k + rng.uniform(0, 1)
        d = rng.uniform(near, far)
        x, y = float(np.cos(angle) * d), float(np.sin(angle) * d)
        kind = rng.integers(4)
        if kind == 0:
            z = 0.0
            for _ in range(rng.integers(1, 5)):
                s = rng.uniform(0.2, 0.8, 3)
                b.box((x, y, z + s[2] / 2), tuple(s), _surface(rng), "box")
                z += s[2]
        elif kind == 1:
            m, h, w = _surface(rng), rng.uniform(0.7, 2.2), rng.uniform(0.5, 1.2)
            for side in (-1, 1):
                b.box((side * w / 2, 0, h / 2), (0.15, 0.3, h), m, "otherstructure", angle, (x, y))
            b.box((0, 0, h + 0.08), (w + 0.3, 0.35, 0.16), m, "otherstructure", angle, (x, y))
        elif kind == 2:
            h, r = rng.uniform(0.4, 1.2), rng.uniform(0.15, 0.4)
            b.cylinder((x, y, 0), r, h, _surface(rng), "otherprop", top=r * 0.3, sides=24)
            b.blob((x, y, h + r * 0.5), (r, r, r), _surface(rng), "otherprop")
        else:
            m, w, h = _surface(rng), rng.uniform(0.8, 2), rng.uniform(0.35, 0.6)
            b.box((0, 0, h), (w, w * 0.4, 0.08), m, "table", angle, (x, y))
            b.cylinder((x, y, 0), 0.1, h, m, "table", top=0.05)


def rotunda(b: Builder) -> float:
    """Build a round, vaulted hall with some open bays. Return the camera's height."""
    rng = b.rng
    _sky(rng, float(rng.uniform(0.3, 1.5)))
    r, h = rng.uniform(2, 7), rng.uniform(2.3, 4)
    _lathe(b, [(0.001, 0), (r, 0)], _surface(rng), "floor")
    gaps = tuple(int(i) for i in rng.choice(_RIM, rng.integers(0, 7), replace=False))
    wall = _surface(rng)
    _lathe(b, [(r, 0), (r, h)], wall, "wall", gaps)
    lift = rng.uniform(0, 1) * r
    dome = [(r * np.cos(t), h + lift * np.sin(t)) for t in np.linspace(0, np.pi / 2 - 0.001, 8)]
    _lathe(b, dome, _surface(rng), "ceiling")
    for i in range(rng.integers(4, 10)):
        t = 2 * np.pi * i / 8 + 0.1
        b.cylinder((np.cos(t) * r * 0.93, np.sin(t) * r * 0.93, 0), 0.16, h, wall, "otherstructure", top=0.13)
    b.box((0, 0, -0.6), (300, 300, 1), _surface(rng), "floor")
    glow = _light(rng, float(rng.uniform(5, 40)))
    for _ in range(rng.integers(1, 4)):
        b.blob((*rng.uniform(-r * 0.5, r * 0.5, 2), h - 0.2), (0.18, 0.18, 0.25), glow, "lamp")
    _props(b, rng.integers(2, 8), 1.1, max(1.4, r * 0.8))
    return float(rng.uniform(1.2, 1.9))


def attic(b: Builder) -> float:
    """Build a long room under a pitched roof with skylights. Return the camera's height."""
    rng = b.rng
    _sky(rng, float(rng.uniform(0.3, 1.5)))
    length, half, knee = rng.uniform(2, 7, 2), rng.uniform(1.6, 3.5), rng.uniform(0.3, 1.2)
    ridge = knee + half * rng.uniform(0.7, 1.3)
    roof, gable = _surface(rng, (0.4, 1)), _surface(rng, (0.4, 1))
    x0, x1 = -length[0], length[1]
    b.quad([(x0, -half, 0), (x1, -half, 0), (x1, half, 0), (x0, half, 0)], _surface(rng), "floor")
    for side in (-1, 1):
        b.quad(
            [(x0, side * half, 0), (x1, side * half, 0), (x1, side * half, knee), (x0, side * half, knee)],
            gable,
            "wall",
        )
        step = (x1 - x0) / 5
        for k in range(5):
            a, c = x0 + k * step, x0 + (k + 1) * step
            hole = rng.uniform() < 0.3
            for low, high in ((0, 0.3), (0.7, 1)) if hole else ((0, 1),):
                points = [
                    (t, side * half * (1 - f), knee + (ridge - knee) * f)
                    for t, f in ((a, low), (c, low), (c, high), (a, high))
                ]
                b.quad(points, roof, "ceiling")
    for x in (x0, x1):
        b.mesh(
            np.array([(x, -half, 0), (x, half, 0), (x, half, knee), (x, 0, ridge), (x, -half, knee)]),
            [(0, 1, 2, 3, 4)],
            gable,
            "wall",
        )
    glow = _light(rng, float(rng.uniform(5, 40)))
    b.box((rng.uniform(x0, x1) * 0.5, 0, ridge - 0.3), (0.6, 0.1, 0.05), glow, "lamp")
    _props(b, rng.integers(2, 7), 1.1, max(1.3, half * 0.8))
    return float(rng.uniform(1.1, 1.5))


def terrace(b: Builder) -> float:
    """Build a raised deck with a balustrade, open to the sea and a far shore. Return the camera's height."""
    rng = b.rng
    _sky(rng, float(rng.uniform(0.5, 2)))
    half = rng.uniform(2, 6)
    b.box((0, 0, -0.2), (2 * half, 2 * half, 0.4), _surface(rng), "floor", 0.3, (0, 0))
    rail = _surface(rng)
    for side in range(rng.integers(2, 5)):
        yaw = side * np.pi / 2 + 0.3
        b.box((half, 0, 1.0), (0.12, 2 * half, 0.08), rail, "otherstructure", yaw, (0, 0))
        for y in np.arange(-half, half, 0.5):
            b.box((half, float(y), 0.5), (0.06, 0.06, 1.0), rail, "otherstructure", yaw, (0, 0))
    sea = Graph("sea").finish(colour(rng, 0.6, 0.02, 0.2), 0.1, 0.0)
    b.box((0, 0, -rng.uniform(3, 12)), (3000, 3000, 0.1), sea, "floor")
    for _ in range(rng.integers(2, 9)):
        t, d = rng.uniform(0, 6.3), rng.uniform(40, 400)
        s = rng.uniform(10, 60, 3)
        b.blob(
            (np.cos(t) * (d + s[0]), np.sin(t) * (d + s[1]), -8),
            (s[0], s[1], s[2] * 0.8),
            _surface(rng),
            "otherprop",
            rough=0.1,
        )
    if rng.uniform() < 0.6:
        h = rng.uniform(2.5, 6)
        b.box((-half - 2, 0, h / 2 - 0.1), (4, 2 * half, h), _surface(rng), "wall", 0.3, (0, 0))
    _props(b, rng.integers(1, 6), 1.1, half * 0.9)
    return float(rng.uniform(1.3, 1.9))


def deck(b: Builder) -> float:
    """Build a low, wide parking deck with round columns and open sides. Return the camera's height."""
    rng = b.rng
    _sky(rng, float(rng.uniform(0.2, 1)))
    h, half, step = rng.uniform(2.3, 3.2), rng.uniform(10, 25), rng.uniform(4, 7)
    concrete = _surface(rng, (0.4, 1))
    b.box((0, 0, -0.15), (2 * half, 2 * half, 0.3), _surface(rng, (0.3, 1)), "floor")
    b.box((0, 0, h + 0.15), (2 * half, 2 * half, 0.3), concrete, "ceiling")
    for x in np.arange(-half + 1.5, half, step):
        for y in np.arange(-half + 2.1, half, step):
            if np.hypot(x, y) > 1:
                b.cylinder((float(x), float(y), 0), 0.3, h, concrete, "otherstructure", sides=20)
            if rng.uniform() < 0.4:
                b.box((float(x) + step / 2, float(y), h - 0.05), (1.2, 0.1, 0.06), _light(rng, 20.0), "lamp")
    for side in range(4):
        tall = h if rng.uniform() < 0.3 else 1.0
        b.box((half, 0, tall / 2), (0.3, 2 * half, tall), concrete, "wall", side * np.pi / 2, (0, 0))
    b.box((0, 0, -4), (600, 600, 0.2), _surface(rng), "floor")
    _props(b, rng.integers(2, 8), 1.5, half * 0.6)
    return float(rng.uniform(1.3, 1.8))


def ruins(b: Builder) -> float:
    """Build dunes with leaning slabs and broken columns. Return the camera's height."""
    rng = b.rng
    _sky(rng, float(rng.uniform(0.5, 2)))
    n, size = 70, 500.0
    line = np.sign(np.linspace(-1, 1, n)) * np.linspace(-1, 1, n) ** 2 * size / 2
    y, x = np.meshgrid(line, line, indexing="ij")
    t = rng.uniform(0, 3.1)
    ridge = np.abs(np.sin((x * np.cos(t) + y * np.sin(t)) / rng.uniform(8, 30) + 2 * np.sin(y / 40)))
    heights = rng.uniform(0.3, 4) * (1 - ridge) * np.clip(np.hypot(x, y) / 10, 0, 1) ** 2
    b.terrain(size, heights, _surface(rng, (0.6, 1)), "floor")
    for _ in range(rng.integers(3, 16)):
        a, d = rng.uniform(0, 6.3), rng.uniform(2, 20)
        px, py = float(np.cos(a) * d), float(np.sin(a) * d)
        if rng.uniform() < 0.5:
            b.cylinder(
                (px, py, -0.3), rng.uniform(0.2, 0.6), rng.uniform(0.6, 6), _surface(rng), "otherstructure", sides=18
            )
        else:
            slab = b.box((px, py, 0.6), tuple(rng.uniform(0.3, 3, 3)), _surface(rng), "otherstructure")
            slab.rotation_euler = rng.uniform(-0.6, 0.6, 3)
    return float(rng.uniform(1.2, 2))


def build(rng: np.random.Generator) -> float:
    """Build a random scene in the open, empty file. Return the camera's height above z = 0 in metres."""
    makers = (rotunda, attic, terrace, deck, ruins)
    return makers[rng.choice(5, p=(0.3, 0.25, 0.15, 0.15, 0.15))](Builder(rng))
