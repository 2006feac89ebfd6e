"""Lamps of a mesh as light objects, which can be moved and switched off.

A lamp is a connected part of the mesh that emits light. It becomes an area light at its place, of its size and power;
its surface then shines for the camera only, so that nothing is lit twice.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ..capture import pixels
from ..jobs.specs import counted
from ..ui.operator_parts import FINISHED, poll_unless
from . import environment, rays
from . import remove as removal

#: Custom property of a light: its share of the light of all lamps, 0 to 1.
SHARE = "panoform_share"
#: The node that limits a lamp's surface to the camera.
_NODE = "Lamps as Lights"
#: Lamps of less than this share have no light of their own: the others take over theirs.
_SMALLEST = 0.01
#: How far a light stands before its surface, as a share of its side.
_BEFORE = 0.05


class Lamp(NamedTuple):
    """A lamp in its object's frame, in metres."""

    #: (3,) the middle of what emits; (3,) unit vector, where it shines; and its area in m².
    place: np.ndarray
    normal: np.ndarray
    area: float
    #: (3,) power of a surface that emits by the cosine, in watts.
    power: np.ndarray


def find(thing: bpy.types.Object) -> list[Lamp]:
    """Return the lamps of a mesh object: connected faces whose material emits a texture."""
    mesh = thing.data
    emitting = {index: image for index, one in enumerate(mesh.materials) if (image := _emission(one)) is not None}
    if not emitting or not len(mesh.polygons):
        return []
    mesh.calc_loop_triangles()
    count = len(mesh.loop_triangles)
    corners, loops, material = np.empty(3 * count, np.int32), np.empty(3 * count, np.int32), np.empty(count, np.int32)
    mesh.loop_triangles.foreach_get("vertices", corners)
    mesh.loop_triangles.foreach_get("loops", loops)
    mesh.loop_triangles.foreach_get("material_index", material)
    place, uv = np.empty(3 * len(mesh.vertices), np.float32), np.empty(2 * len(mesh.loops), np.float32)
    mesh.vertices.foreach_get("co", place)
    mesh.uv_layers[rays.UV_NAME].uv.foreach_get("vector", uv)
    lamps = []
    for index, image in emitting.items():
        some = material == index
        if not some.any():
            continue
        triangles = corners.reshape(-1, 3)[some]
        points = place.reshape(-1, 3).astype(np.float64)[triangles]  # (T, 3, 3)
        middle = uv.reshape(-1, 2)[loops.reshape(-1, 3)[some]].mean(axis=1)  # (T, 2)
        radiance = _sample(pixels.raw(image)[..., :3], middle)
        cross = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]) / 2
        area = np.linalg.norm(cross, axis=-1)
        lit = radiance.max(-1) > 0
        label = _connected(triangles[lit])
        for number in np.unique(label):
            part = np.flatnonzero(lit)[label == number]
            power = math.pi * (radiance[part] * area[part, None]).sum(0)
            weight = radiance[part].sum(-1) * area[part]
            facing = (cross[part] * radiance[part].sum(-1, keepdims=True)).sum(0)
            if weight.sum() > 0 and np.linalg.norm(facing) > 0:
                centre = np.average(points[part].mean(1), axis=0, weights=weight)
                lamps.append(Lamp(centre, facing / np.linalg.norm(facing), float(area[part].sum()), power))
    return lamps


def _emission(material: bpy.types.Material | None) -> bpy.types.Image | None:
    """Return the image that a material of ours emits; None without one."""
    node = _principled(material)
    links = node.inputs["Emission Color"].links if node is not None else ()
    return links[0].from_node.image if links and hasattr(links[0].from_node, "image") else None


def _principled(material: bpy.types.Material | None) -> bpy.types.Node | None:
    nodes = material.node_tree.nodes if material is not None and material.node_tree is not None else ()
    return next((node for node in nodes if node.type == "BSDF_PRINCIPLED"), None)


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Return the pixels of an image (H, W, 3), the top row first, at texture coordinates (T, 2)."""
    height, width = image.shape[:2]
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    return image[row, np.floor(uv[:, 0] * width).astype(int) % width].astype(np.float64)


def _connected(triangles: np.ndarray) -> np.ndarray:
    """Return the number of the connected part that each triangle (T, 3) belongs to, (T,)."""
    _, vertices = np.unique(triangles, return_inverse=True)
    vertices = vertices.reshape(-1, 3)
    label = np.arange(vertices.max() + 1 if len(vertices) else 0)
    while True:
        lowest = label[vertices].min(axis=1)
        before = label.copy()
        np.minimum.at(label, vertices, lowest[:, None])
        label = label[label]
        if (label == before).all():
            return label[vertices[:, 0]] if len(vertices) else np.zeros(0, int)


def add(body: bpy.types.Object) -> list[bpy.types.Object]:
    """Add a light for each lamp of an environment, the strongest first, and limit the lamps' surfaces to the camera."""
    found = [(part, lamp) for part in environment.parts(body) if part.type == "MESH" for lamp in find(part)]
    total = sum(lamp.power.sum() for _, lamp in found)
    kept = sorted(
        (pair for pair in found if pair[1].power.sum() >= _SMALLEST * total), key=lambda pair: -pair[1].power.sum()
    )
    whole = total / sum(lamp.power.sum() for _, lamp in kept) if kept else 1.0
    lights = []
    for number, (part, lamp) in enumerate(kept, 1):
        share = float(whole * lamp.power.sum() / total)
        data = bpy.data.lights.new(f"{body.name} lamp {number}", "AREA")
        data.shape, data.size = "SQUARE", math.sqrt(lamp.area)
        power = whole * lamp.power
        data.energy, data.color = float(power.max()), power / power.max()
        light = bpy.data.objects.new(f"{body.name} lamp {number} ({100 * share:.0f} %)", data)
        place = lamp.place + lamp.normal * _BEFORE * data.size
        turn = Vector(lamp.normal).to_track_quat("-Z", "Y").to_matrix().to_4x4()
        light.matrix_world = part.matrix_world @ Matrix.Translation(place) @ turn
        light.visible_camera = False
        light[SHARE], light[environment.PART], data[removal.MADE] = share, light.name, True
        for collection in body.users_collection:
            collection.objects.link(light)
        lights.append(light)
    for material in _materials(body):
        _limit(material)
    return lights


def _materials(body: bpy.types.Object) -> set[bpy.types.Material]:
    """Return the materials of an environment that emit light."""
    meshes = [part.data for part in environment.parts(body) if part.type == "MESH"]
    return {one for mesh in meshes for one in mesh.materials if one is not None and _emission(one) is not None}


def _limit(material: bpy.types.Material) -> None:
    """Let a material emit light to the camera only."""
    node = _principled(material)
    path = rays.add(material.node_tree, "ShaderNodeLightPath", 0, -700, {})
    path.name = path.label = _NODE
    material.node_tree.links.new(path.outputs["Is Camera Ray"], node.inputs["Emission Strength"])


def lights_of(body: bpy.types.Object) -> list[bpy.types.Object]:
    """Return the lights that `add` made for an environment."""
    return [part for part in environment.parts(body) if SHARE in part and environment.is_built(part)]


def are_separate(body: bpy.types.Object) -> bool:
    """Return whether the lamps of an environment are light objects now."""
    return any(_NODE in material.node_tree.nodes for material in _materials(body))


def remove(body: bpy.types.Object) -> None:
    """Remove the lights, and let the lamps' surfaces emit light again."""
    for material in _materials(body):
        nodes = material.node_tree.nodes
        if _NODE in nodes:
            nodes.remove(nodes[_NODE])
            _principled(material).inputs["Emission Strength"].default_value = 1.0
    lights = lights_of(body)
    bpy.data.batch_remove([*lights, *(light.data for light in lights)])


def _disabled_reason() -> str:
    if reason := environment.disabled_reason():
        return reason
    return "" if _materials(environment.find(bpy.context)) else "The environment has no lamps"


class PANOFORM_OT_lamps_as_lights(bpy.types.Operator):
    """Make each lamp of the environment a light object, which can be moved, changed and switched off; press again to
    return. The lamps still shine for the camera"""

    bl_idname = "panoform.lamps_as_lights"
    bl_label = "Lamps as Lights"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(_disabled_reason)

    def execute(self, context: bpy.types.Context) -> set[str]:
        body = environment.find(context)
        if are_separate(body):
            remove(body)
            return FINISHED
        made = add(body)
        self.report({"INFO"}, f"{counted(len(made), 'light')}: " + ", ".join(one.name for one in made[:3]))
        return FINISHED


CLASSES = (PANOFORM_OT_lamps_as_lights,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
