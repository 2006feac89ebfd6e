"""Maps → material: a Principled BSDF, object-space normals, and the residual displacement of the geometry."""

from __future__ import annotations

import bpy

from . import rays


def create(name: str, images: dict[str, bpy.types.Image]) -> bpy.types.Material:
    """Create a material from images by map name (maps.MAPS). A missing map leaves the Principled BSDF's default."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()

    output = rays.add(tree, "ShaderNodeOutputMaterial", 700, 0, {})
    principled = rays.add(tree, "ShaderNodeBsdfPrincipled", 300, 0, {})
    tree.links.new(principled.outputs["BSDF"], output.inputs["Surface"])
    uv = rays.add(tree, "ShaderNodeUVMap", -1500, 0, {}, uv_map=rays.UV_NAME).outputs["UV"]
    inside = rays.inside_rows(tree, uv, min(image.size[1] for image in images.values()), -1300, 0)

    def texture(kind: str, y: float) -> rays.Socket:
        node = rays.add(tree, "ShaderNodeTexImage", -300, y, {"Vector": inside}, image=images[kind])
        node.label = kind.capitalize()
        return node.outputs["Color"]

    for i, (kind, socket) in enumerate(
        (("albedo", "Base Color"), ("metallic", "Metallic"), ("roughness", "Roughness"))
    ):
        if kind in images:
            tree.links.new(texture(kind, 600 - 300 * i), principled.inputs[socket])
    if "normal" in images:
        half = (0.5, 0.5, 0.5)
        colour = rays.add(  # Normal Map reads n · 0.5 + 0.5
            tree, "ShaderNodeVectorMath", -20, -300, {0: texture("normal", -300), 1: half, 2: half},
            operation="MULTIPLY_ADD",
        ).outputs[0]  # fmt: skip
        normal = rays.add(tree, "ShaderNodeNormalMap", 140, -300, {"Strength": 1.0, "Color": colour}, space="OBJECT")
        tree.links.new(normal.outputs["Normal"], principled.inputs["Normal"])
    if "distance" in images:
        material.displacement_method = "DISPLACEMENT"
        tree.links.new(_residual(tree, uv, texture("distance", -600)), output.inputs["Displacement"])
    return material


def _residual(tree: bpy.types.NodeTree, uv: rays.Socket, distance: rays.Socket) -> rays.Socket:
    """Return the displacement from the surface to the point given by the distance map.

    It is zero at the modifier's vertices, so nothing is displaced twice; between them, it adds detail for
    adaptive subdivision. Without the modifier and its attributes, it is zero too.
    """
    scale = rays.add(tree, "ShaderNodeAttribute", -300, -900, {}, attribute_name=rays.SCALE_ATTRIBUTE)
    amount = rays.add(tree, "ShaderNodeAttribute", -300, -1100, {}, attribute_name=rays.AMOUNT_ATTRIBUTE)
    ray = rays.direction(tree, uv, -1300, -900)
    target = rays.point(tree, ray, distance, scale.outputs["Fac"], amount.outputs["Fac"], -100, -900)
    surface = rays.add(tree, "ShaderNodeTexCoord", 260, -1200, {}).outputs["Object"]
    residual = rays.add(tree, "ShaderNodeVectorMath", 460, -900, {0: target, 1: surface}, operation="SUBTRACT")
    has_scale = rays.add(
        tree, "ShaderNodeMath", 460, -1200, {0: scale.outputs["Fac"], 1: 0.0}, operation="GREATER_THAN"
    )
    displacement = rays.add(
        tree, "ShaderNodeVectorDisplacement", 660, -900,
        {"Vector": residual.outputs[0], "Midlevel": 0.0, "Scale": has_scale.outputs[0]}, space="OBJECT",
    )  # fmt: skip
    return displacement.outputs[0]
