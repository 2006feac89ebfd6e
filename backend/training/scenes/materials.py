"""Procedural materials, which also write their base colour, roughness and metallic to AOVs.

AOVs: `albedo` (linear base colour) and `pbr` (R roughness, G metallic).
"""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import colorsys
from collections.abc import Callable

import bpy
import numpy as np

Colour = tuple[float, float, float]


def colour(rng: np.random.Generator, saturation: float = 0.35, low: float = 0.03, high: float = 0.85) -> Colour:
    """Return a random linear colour; most have low saturation, like paint and cloth."""
    hue = rng.uniform()
    sat = min(1.0, rng.exponential(saturation))
    value = rng.uniform(low**0.5, high**0.5) ** 2
    return colorsys.hsv_to_rgb(hue, sat, value)


def shade(base: Colour, factor: float) -> Colour:
    """Scale a colour, clipped to [0.01, 0.95]."""
    r, g, b = np.clip(np.array(base) * factor, 0.01, 0.95)
    return float(r), float(g), float(b)


class Graph:
    """Builder of a material's node tree; methods return output sockets."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()

    def node(self, kind: str, inputs: dict | None = None, **settings) -> bpy.types.Node:
        """Add a node with attributes `settings`; inputs are values, or sockets to link."""
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        for key, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[key])
            elif isinstance(value, tuple) and len(value) == 3 and node.inputs[key].type == "RGBA":
                node.inputs[key].default_value = (*value, 1.0)
            else:
                node.inputs[key].default_value = value
        return node

    def uv(self, scale: float = 1.0, turn: float = 0.0) -> bpy.types.NodeSocket:
        """Return the mesh's UVs in metres, scaled and rotated."""
        coordinates = self.node("ShaderNodeTexCoord").outputs["UV"]
        mapping = self.node("ShaderNodeMapping", {"Vector": coordinates})
        mapping.inputs["Scale"].default_value = (scale, scale, scale)
        mapping.inputs["Rotation"].default_value = (0, 0, turn)
        return mapping.outputs["Vector"]

    def ramp(self, factor: bpy.types.NodeSocket, colours: list[Colour], sharp: float = 0.0) -> bpy.types.NodeSocket:
        """Map a factor in [0, 1] to a colour ramp; `sharp` in [0, 1) narrows the transitions."""
        node = self.node("ShaderNodeValToRGB", {"Fac": factor})
        elements = node.color_ramp.elements
        while len(elements) < len(colours):
            elements.new(0.5)
        for index, value in enumerate(colours):
            position = index / (len(colours) - 1)
            elements[index].position = 0.5 + (position - 0.5) * (1 - sharp)
            elements[index].color = (*value, 1)
        return node.outputs["Color"]

    def mix(self, factor, a, b) -> bpy.types.NodeSocket:
        """Mix two colours."""
        node = self.node("ShaderNodeMix", data_type="RGBA")
        for key, value in ((0, factor), (6, a), (7, b)):
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[key])
            else:
                node.inputs[key].default_value = value if key == 0 else (*value, 1)
        return node.outputs[2]

    def scalar(self, factor: bpy.types.NodeSocket, low: float, high: float) -> bpy.types.NodeSocket:
        """Map a factor in [0, 1] to [low, high]."""
        node = self.node("ShaderNodeMapRange", {"Value": factor})
        node.inputs["To Min"].default_value = low
        node.inputs["To Max"].default_value = high
        return node.outputs["Result"]

    def finish(
        self, base, roughness, metallic: float, emission: float = 0.0, bump: bpy.types.NodeSocket | None = None,
        bump_m: float = 0.01,
    ) -> bpy.types.Material:  # fmt: skip
        """Add a principled BSDF and matching AOVs; `base`: colour or socket, `roughness`: number or socket."""
        inputs = {"Base Color": base, "Roughness": roughness, "Metallic": metallic}
        if emission:
            inputs |= {"Emission Color": base, "Emission Strength": emission}
        if bump is not None:
            inputs["Normal"] = self.node("ShaderNodeBump", {"Height": bump, "Distance": bump_m}).outputs["Normal"]
        surface = self.node("ShaderNodeBsdfPrincipled", inputs)
        output = self.node("ShaderNodeOutputMaterial")
        self.tree.links.new(surface.outputs["BSDF"], output.inputs["Surface"])
        pbr = self.node("ShaderNodeCombineColor", {"Red": roughness, "Green": metallic})
        self.node("ShaderNodeOutputAOV", {"Color": base}, aov_name="albedo")
        self.node("ShaderNodeOutputAOV", {"Color": pbr.outputs["Color"]}, aov_name="pbr")
        return self.material


def _noise(graph: Graph, vector, scale: float, detail: float = 4.0, distortion: float = 0.0):
    node = graph.node(
        "ShaderNodeTexNoise", {"Vector": vector, "Scale": scale, "Detail": detail, "Distortion": distortion}
    )
    return graph.scalar(node.outputs["Fac"], -0.6, 1.6)


def plain(rng: np.random.Generator) -> bpy.types.Material:
    """Create paint or plastic."""
    return Graph("plain").finish(colour(rng), float(rng.uniform(0.15, 1)), 0.0)


def mottled(rng: np.random.Generator) -> bpy.types.Material:
    """Create plaster, concrete or earth: noise between two shades."""
    graph = Graph("mottled")
    base = colour(rng)
    noise = _noise(graph, graph.uv(), float(rng.uniform(0.5, 12)), 3)
    roughness = graph.scalar(noise, *sorted(rng.uniform(0.3, 1, 2).tolist()))
    return graph.finish(graph.ramp(noise, [base, shade(base, rng.uniform(0.4, 0.9))]), roughness, 0.0, bump=noise)


def wood(rng: np.random.Generator) -> bpy.types.Material:
    """Create wood."""
    graph = Graph("wood")
    base = colorsys.hsv_to_rgb(rng.uniform(0.04, 0.11), rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.6))
    vector = graph.uv(float(rng.uniform(1, 4)), float(rng.choice([0, np.pi / 2])))
    wave = graph.node(
        "ShaderNodeTexWave",
        {"Vector": vector, "Scale": float(rng.uniform(1, 4)), "Distortion": float(rng.uniform(2, 12)), "Detail": 3.0},
    ).outputs["Fac"]
    roughness = graph.scalar(wave, *sorted(rng.uniform(0.15, 0.8, 2).tolist()))
    return graph.finish(graph.ramp(wave, [base, shade(base, rng.uniform(0.4, 0.8))]), roughness, 0.0)


def bricks(rng: np.random.Generator) -> bpy.types.Material:
    """Create bricks, tiles, planks or slabs with joints."""
    graph = Graph("bricks")
    base = colour(rng, 0.4)
    size = rng.uniform(0.1, 0.8)
    aspect = rng.choice([1.0, 1.0, 2.0, 4.0, 8.0])
    node = graph.node(
        "ShaderNodeTexBrick",
        {
            "Vector": graph.uv(1.0, float(rng.choice([0, np.pi / 2, np.pi / 4]))),
            "Color1": base,
            "Color2": shade(base, rng.uniform(0.6, 1.2)),
            "Mortar": shade(base, rng.uniform(0.3, 1.8)),
            "Scale": 1.0,
            "Mortar Size": float(rng.uniform(0.003, 0.02)),
            "Brick Width": float(size * aspect),
            "Row Height": float(size),
        },
        offset=float(rng.choice([0.0, 0.5, 0.3])),
    )
    tile, joint = float(rng.uniform(0.05, 0.9)), float(rng.uniform(0.6, 1))
    roughness = graph.scalar(node.outputs["Fac"], tile, joint)
    return graph.finish(node.outputs["Color"], roughness, 0.0)


def checker(rng: np.random.Generator) -> bpy.types.Material:
    """Create a chequerboard."""
    graph = Graph("checker")
    vector = graph.uv(turn=float(rng.choice([0, np.pi / 4])))
    node = graph.node(
        "ShaderNodeTexChecker",
        {"Vector": vector, "Color1": colour(rng), "Color2": colour(rng), "Scale": float(rng.uniform(1, 6))},
    )
    return graph.finish(node.outputs["Color"], float(rng.uniform(0.05, 0.9)), 0.0)


def stripes(rng: np.random.Generator) -> bpy.types.Material:
    """Create striped wallpaper or cloth."""
    graph = Graph("stripes")
    wave = graph.node(
        "ShaderNodeTexWave",
        {"Vector": graph.uv(turn=float(rng.choice([0, np.pi / 2]))), "Scale": float(rng.uniform(0.5, 5))},
    ).outputs["Fac"]
    base = colour(rng)
    other = colour(rng) if rng.uniform() < 0.5 else shade(base, rng.uniform(0.5, 1.4))
    return graph.finish(graph.ramp(wave, [base, other], float(rng.uniform(0, 0.95))), float(rng.uniform(0.4, 1)), 0.0)


def spots(rng: np.random.Generator) -> bpy.types.Material:
    """Create cobbles, terrazzo, pebbles or dotted cloth."""
    graph = Graph("spots")
    node = graph.node("ShaderNodeTexVoronoi", {"Vector": graph.uv(), "Scale": float(rng.uniform(2, 20))})
    base = colour(rng)
    picture = graph.ramp(node.outputs["Distance"], [base, shade(base, rng.uniform(0.3, 1.5)), colour(rng)])
    bump = node.outputs["Distance"] if rng.uniform() < 0.3 else None
    return graph.finish(picture, float(rng.uniform(0.2, 1)), 0.0, bump=bump)


def patches(rng: np.random.Generator) -> bpy.types.Material:
    """Create murals, peeling paint or camouflage: unrelated colours with hard borders and varying roughness."""
    graph = Graph("patches")
    noise = _noise(graph, graph.uv(), float(rng.uniform(0.3, 4)), 3, float(rng.uniform(0, 2)))
    picture = graph.ramp(noise, [colour(rng), colour(rng), colour(rng)], float(rng.uniform(0.5, 0.95)))
    return graph.finish(picture, graph.scalar(noise, *rng.uniform(0.1, 1, 2).tolist()), 0.0)


def _texture(graph: Graph, rng: np.random.Generator) -> bpy.types.NodeSocket:
    """Return an abstract pattern of noise, cells, waves or gratings, at a random scale and rotation."""
    vector = graph.uv(float(np.exp(rng.uniform(-1.5, 1.5))), float(rng.uniform(0, np.pi)))
    match rng.integers(5):
        case 0:
            kind = rng.choice(["FBM", "HYBRID_MULTIFRACTAL", "HETERO_TERRAIN"])
            node = graph.node(
                "ShaderNodeTexNoise", {"Vector": vector, "Scale": 2.0, "Detail": 3.0}, noise_type=str(kind)
            )
            return graph.scalar(node.outputs["Fac"], -0.5, 1.5)
        case 1:
            measure = str(rng.choice(["CHEBYCHEV", "MANHATTAN", "EUCLIDEAN"]))
            node = graph.node("ShaderNodeTexVoronoi", {"Vector": vector, "Scale": 2.0}, distance=measure)
            return node.outputs["Distance"]
        case 2:
            node = graph.node("ShaderNodeTexVoronoi", {"Vector": vector, "Scale": 2.0}, feature="DISTANCE_TO_EDGE")
            return graph.scalar(node.outputs["Distance"], 0.0, float(rng.uniform(2, 8)))
        case 3:
            bend = float(rng.choice([0.0, rng.uniform(0, 20)]))
            return graph.node("ShaderNodeTexWave", {"Vector": vector, "Scale": 0.7, "Distortion": bend}).outputs["Fac"]
    return graph.node("ShaderNodeTexGabor", {"Vector": vector, "Scale": 2.0}).outputs["Value"]


def abstract(rng: np.random.Generator) -> bpy.types.Material:
    """Create a combination of two abstract patterns in random colours, unlike any specific material."""
    graph = Graph("abstract")
    first, second, base = _texture(graph, rng), _texture(graph, rng), colour(rng, 0.4)
    other = colour(rng, 0.4) if rng.uniform() < 0.4 else shade(base, rng.uniform(0.3, 1.6))
    one = graph.ramp(first, [base, other], float(rng.uniform(0, 0.9)))
    picture = graph.mix(second, one, shade(base, rng.uniform(0.4, 1.4))) if rng.uniform() < 0.5 else one
    roughness = graph.scalar(second if rng.uniform() < 0.5 else first, *rng.uniform(0.05, 1, 2).tolist())
    return graph.finish(picture, roughness, 0.0)


def marble(rng: np.random.Generator) -> bpy.types.Material:
    """Create marble."""
    graph = Graph("marble")
    noise = _noise(graph, graph.uv(), float(rng.uniform(0.5, 3)), 5, float(rng.uniform(1, 4)))
    base = colour(rng, 0.15, 0.2, 0.9)
    return graph.finish(
        graph.ramp(noise, [base, base, shade(base, rng.uniform(0.2, 0.7))]), float(rng.uniform(0.03, 0.4)), 0.0
    )


def metal(rng: np.random.Generator) -> bpy.types.Material:
    """Create metal."""
    graph = Graph("metal")
    tint = [(0.56, 0.57, 0.58), (0.91, 0.92, 0.92), (1.0, 0.71, 0.29), (0.95, 0.64, 0.54), (0.3, 0.3, 0.32)]
    base = shade(tint[rng.integers(len(tint))], rng.uniform(0.6, 1))
    noise = _noise(graph, graph.uv(), float(rng.uniform(1, 10)))
    low = float(rng.uniform(0.05, 0.5))
    return graph.finish(base, graph.scalar(noise, low, low + float(rng.uniform(0, 0.3))), 1.0)


def mirror(rng: np.random.Generator) -> bpy.types.Material:
    """Create a mirror."""
    return Graph("mirror").finish((0.9, 0.9, 0.9), float(rng.uniform(0.0, 0.05)), 1.0)


def foliage(rng: np.random.Generator) -> bpy.types.Material:
    """Create leaves or grass."""
    graph = Graph("foliage")
    base = colorsys.hsv_to_rgb(rng.uniform(0.14, 0.38), rng.uniform(0.4, 0.9), rng.uniform(0.04, 0.4))
    noise = _noise(graph, graph.uv(), float(rng.uniform(3, 25)), 3)
    return graph.finish(graph.ramp(noise, [shade(base, 0.35), base, shade(base, 1.6)]), float(rng.uniform(0.5, 1)), 0.0)


def ground(rng: np.random.Generator) -> bpy.types.Material:
    """Create earth, sand, patches of grass, or snow."""
    graph = Graph("ground")
    earth = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.13), rng.uniform(0.1, 0.6), rng.uniform(0.08, 0.7))
    green = colorsys.hsv_to_rgb(rng.uniform(0.17, 0.33), rng.uniform(0.3, 0.8), rng.uniform(0.06, 0.35))
    patches = _noise(graph, graph.uv(), float(rng.uniform(0.05, 0.5)), 3)
    grain = _noise(graph, graph.uv(), float(rng.uniform(3, 12)), 3)
    one = graph.ramp(grain, [earth, shade(earth, 0.55)])
    two = graph.ramp(grain, [green, shade(green, 0.45)])
    sharp = graph.scalar(patches, float(rng.uniform(-2, 1)), float(rng.uniform(0, 3)))
    return graph.finish(graph.mix(sharp, one, two), float(rng.uniform(0.6, 1)), 0.0)


def emitter(rng: np.random.Generator, strength: float) -> bpy.types.Material:
    """Create an emitter, whose radiance is its colour times `strength`."""
    warmth = rng.uniform()
    return Graph("emitter").finish((1.0, 1 - 0.35 * warmth, 1 - 0.7 * warmth), 0.5, 0.0, emission=strength)


_SOLID: list[tuple[Callable[[np.random.Generator], bpy.types.Material], float]] = [
    (plain, 3), (mottled, 2), (wood, 3), (marble, 1), (metal, 2), (stripes, 1), (spots, 1), (checker, 0.4),
    (abstract, 2),
]  # fmt: skip
_WALL = [
    (plain, 5), (mottled, 3), (bricks, 2.5), (stripes, 1.5), (wood, 1), (spots, 0.5), (marble, 0.5), (abstract, 2),
    (metal, 0.4),
]  # fmt: skip
_FLOOR = [
    (wood, 3), (bricks, 4), (checker, 1), (mottled, 2), (marble, 1), (plain, 1), (spots, 1), (stripes, 0.3),
    (abstract, 2), (metal, 0.2),
]  # fmt: skip
_CLOTH = [(plain, 3), (stripes, 2), (checker, 1), (mottled, 2), (spots, 1), (abstract, 1.5)]
_CHOICES = {"solid": _SOLID, "wall": _WALL, "floor": _FLOOR, "cloth": _CLOTH}


def choose(rng: np.random.Generator, use: str) -> bpy.types.Material:
    """Create a random material for a use: "solid", "wall", "floor" or "cloth"."""
    makers, weights = zip(*_CHOICES[use], strict=True)
    chances = np.array(weights) / sum(weights)
    return makers[rng.choice(len(makers), p=chances)](rng)
