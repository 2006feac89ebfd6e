"""Nodes shared by the dome's geometry and material: UV → texture coordinate → direction → point on the surface.

A vertex's position depends only on its UV, so that it is exact at every subdivision level: `shared.sphere` with
u = UV.x and v = 1 − UV.y. The surface is at  direction · Scale · mix(1, distance, Amount).
"""

from __future__ import annotations

import math

import bpy

UV_NAME = "UVMap"
#: Point attributes that pass the modifier's values to the material.
SCALE_ATTRIBUTE, AMOUNT_ATTRIBUTE = "panoform_scale", "panoform_amount"

Socket = bpy.types.NodeSocket
Tree = bpy.types.NodeTree


def add(
    tree: Tree, kind: str, x: float, y: float, inputs: dict[int | str, object], **properties: object
) -> bpy.types.Node:
    """Add a node of type `kind`; inputs are linked (to a socket) or set (to a value)."""
    node = tree.nodes.new(kind)
    node.location = (x, y)
    for name, value in properties.items():
        setattr(node, name, value)
    for name, value in inputs.items():
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, node.inputs[name])
        else:
            node.inputs[name].default_value = value
    return node


def inside_rows(tree: Tree, uv: Socket, height: int, x: float, y: float) -> Socket:
    """Clamp `uv` half a pixel inside top and bottom, where a repeating texture would blend zenith and nadir."""
    half = 0.5 / height
    low = add(tree, "ShaderNodeVectorMath", x, y, {0: uv, 1: (-10.0, half, 0.0)}, operation="MAXIMUM")
    high = add(
        tree, "ShaderNodeVectorMath", x + 180, y, {0: low.outputs[0], 1: (10.0, 1 - half, 0.0)}, operation="MINIMUM"
    )
    return high.outputs[0]


def direction(tree: Tree, uv: Socket, x: float, y: float) -> Socket:
    """Return the unit ray through `uv`: +X rotated by −latitude about Y, then by longitude about Z."""
    parts = add(tree, "ShaderNodeSeparateXYZ", x, y, {0: uv})
    down = add(
        tree, "ShaderNodeMath", x + 180, y - 90, {0: parts.outputs[1], 1: -math.pi, 2: math.pi / 2},
        operation="MULTIPLY_ADD",
    )  # fmt: skip
    around = add(
        tree, "ShaderNodeMath", x + 180, y + 90, {0: parts.outputs[0], 1: -2 * math.pi, 2: math.pi},
        operation="MULTIPLY_ADD",
    )  # fmt: skip
    angles = add(tree, "ShaderNodeCombineXYZ", x + 360, y, {0: 0.0, 1: down.outputs[0], 2: around.outputs[0]})
    ray = add(
        tree, "ShaderNodeVectorRotate", x + 540, y,
        {"Vector": (1.0, 0.0, 0.0), "Center": (0.0, 0.0, 0.0), "Rotation": angles.outputs[0]},
        rotation_type="EULER_XYZ",
    )  # fmt: skip
    return ray.outputs[0]


def point(
    tree: Tree, ray: Socket, distance: Socket | None, scale: Socket, amount: Socket | None, x: float, y: float
) -> Socket:
    """Return ray · scale · (1 + amount · (distance − 1)); without a distance, ray · scale."""
    radius = scale
    if distance is not None and amount is not None:
        offset = add(tree, "ShaderNodeMath", x, y, {0: distance, 1: 1.0}, operation="SUBTRACT")
        factor = add(
            tree, "ShaderNodeMath", x + 180, y, {0: offset.outputs[0], 1: amount, 2: 1.0}, operation="MULTIPLY_ADD"
        )
        radius = add(
            tree, "ShaderNodeMath", x + 360, y, {0: factor.outputs[0], 1: scale}, operation="MULTIPLY"
        ).outputs[0]
    scaled = add(tree, "ShaderNodeVectorMath", x + 540, y, {0: ray}, operation="SCALE")
    tree.links.new(radius, scaled.inputs["Scale"])
    return scaled.outputs[0]
