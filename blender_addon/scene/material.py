"""Maps → material: a Principled BSDF, object-space normals, and the residual displacement of a dome."""

from __future__ import annotations

import bpy

from . import rays


def create(name: str, images: dict[str, bpy.types.Image]) -> bpy.types.Material:
    """Create a material from images by map name (maps.MAPS). A missing map leaves the Principled BSDF's default."""
    material = _new(name)
    tree = material.node_tree
    output = rays.add(tree, "ShaderNodeOutputMaterial", 700, 0, {})
    textures = _Textures(tree, images)
    tree.links.new(_principled(tree, textures), output.inputs["Surface"])
    if "distance" in images:
        material.displacement_method = "DISPLACEMENT"
        tree.links.new(_residual(tree, textures.uv, textures.add("distance", -600)), output.inputs["Displacement"])
    return material


def create_one_sided(name: str, images: dict[str, bpy.types.Image], *, lights_scene: bool = True) -> bpy.types.Material:
    """Create a material whose back is invisible to the camera, and opaque to light.

    `images` are by map name, and "emission": radiance in linear light. EEVEE culls the back; Cycles has an output of
    its own, where the back is transparent to camera rays. `lights_scene`: whether the emission lights the scene; if
    not, only the camera sees it.
    """
    material = _new(name)
    material.use_backface_culling = True
    material.use_backface_culling_shadow = False
    tree = material.node_tree
    surface = _principled(tree, _Textures(tree, images))
    if not lights_scene:
        path = rays.add(tree, "ShaderNodeLightPath", 0, -700, {})
        tree.links.new(path.outputs["Is Camera Ray"], surface.node.inputs["Emission Strength"])
    eevee = rays.add(tree, "ShaderNodeOutputMaterial", 1100, 200, {"Surface": surface}, target="EEVEE")
    camera = rays.add(tree, "ShaderNodeLightPath", 500, -100, {}).outputs["Is Camera Ray"]
    behind = rays.add(tree, "ShaderNodeNewGeometry", 500, -500, {}).outputs["Backfacing"]
    hidden = rays.add(tree, "ShaderNodeMath", 700, -200, {0: camera, 1: behind}, operation="MULTIPLY").outputs[0]
    nothing = rays.add(tree, "ShaderNodeBsdfTransparent", 700, -400, {}).outputs["BSDF"]
    mixed = rays.add(tree, "ShaderNodeMixShader", 900, -100, {0: hidden, 1: surface, 2: nothing}).outputs[0]
    rays.add(tree, "ShaderNodeOutputMaterial", 1100, -100, {"Surface": mixed}, target="CYCLES")
    eevee.is_active_output = True
    return material


def _new(name: str) -> bpy.types.Material:
    """Create a material without nodes."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):
        material.use_nodes = True
    material.node_tree.nodes.clear()
    return material


class _Textures:
    """The texture nodes of a material."""

    def __init__(self, tree: bpy.types.NodeTree, images: dict[str, bpy.types.Image]) -> None:
        self._tree = tree
        self.images = images
        self.uv = rays.add(tree, "ShaderNodeUVMap", -1500, 0, {}, uv_map=rays.UV_NAME).outputs["UV"]
        self._inside = rays.inside_rows(
            tree, self.uv, min((image.size[1] for image in images.values()), default=1), -1300, 0
        )

    def add(self, kind: str, y: float) -> rays.Socket:
        """Add the texture of a map."""
        node = rays.add(self._tree, "ShaderNodeTexImage", -300, y, {"Vector": self._inside}, image=self.images[kind])
        node.label = kind.capitalize()
        return node.outputs["Color"]


def _principled(tree: bpy.types.NodeTree, textures: _Textures) -> rays.Socket:
    """Add the Principled BSDF with the maps that there are."""
    principled = rays.add(tree, "ShaderNodeBsdfPrincipled", 300, 0, {})
    for i, (kind, socket) in enumerate(
        (("albedo", "Base Color"), ("metallic", "Metallic"), ("roughness", "Roughness"))
    ):
        if kind in textures.images:
            tree.links.new(textures.add(kind, 600 - 300 * i), principled.inputs[socket])
    if "normal" in textures.images:
        half = (0.5, 0.5, 0.5)
        colour = rays.add(  # Normal Map reads n · 0.5 + 0.5
            tree, "ShaderNodeVectorMath", -20, -300, {0: textures.add("normal", -300), 1: half, 2: half},
            operation="MULTIPLY_ADD",
        ).outputs[0]  # fmt: skip
        # Where the map and the mesh disagree, the mesh's own normal is mixed in.
        strength = textures.add("confidence", -1600) if "confidence" in textures.images else 1.0
        inputs = {"Strength": strength, "Color": colour}
        normal = rays.add(tree, "ShaderNodeNormalMap", 140, -300, inputs, space="OBJECT")
        tree.links.new(normal.outputs["Normal"], principled.inputs["Normal"])
    if "emission" in textures.images:
        tree.links.new(textures.add("emission", -1300), principled.inputs["Emission Color"])
        principled.inputs["Emission Strength"].default_value = 1.0
    return principled.outputs["BSDF"]


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
