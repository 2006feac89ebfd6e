"""What lights an environment as light objects, which can be moved and switched off, in a collection of their own.

A lamp is a connected part of the mesh that emits light. It becomes an area light at its place, of its size and power;
its surface then shines for the camera only. The sun of the environment's world becomes a Sun lamp, and the world that
lights the scene in Cycles has it no more. So nothing is lit twice there. In EEVEE one image is the background and the
light; it keeps its sun.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ...shared.imaging.colour import LUMINANCE
from ...shared.imaging.sphere import solid_angles
from ...shared.imaging.sun import split_sun
from ..capture import pixels, sources
from ..jobs.specs import counted
from ..ui.operator_parts import CANCELLED, FINISHED, poll_unless, reporting
from . import environment, images, rays, world
from . import remove as removal
from .datablocks import all_or_nothing

#: Custom property of a light: its share of the light of all lamps, or of the whole sky, 0 to 1.
SHARE = "panoform_share"
#: Custom properties of the node of a world's light: its image before, and the one that `add` made for it.
_WITH_SUN, _WITHOUT_SUN = "panoform_with_sun", "panoform_without_sun"
#: Distance of the Sun lamp from the environment's origin in metres; it does not affect the light.
_SUN_M = 10.0
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
    """Return the image that a material of ours emits; None without one, and for a hidden lamp, which lights nothing."""
    node = _principled(material)
    if node is None or any(link.from_node.name != _NODE for link in node.inputs["Emission Strength"].links):
        return None
    links = node.inputs["Emission Color"].links
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
    """Add a light for each lamp of an environment, the strongest first, and for its sun; take their light from the
    lamps' surfaces, but for the camera, and from the world.

    Raise PanoramaError (`pixels.read_light`) where the world's image can't be read.
    """
    made = [*_add_lamps(body), *_add_sun(body)]
    if made:
        collection = bpy.data.collections.new(f"Lights of {body.name}")
        collection[environment.OWN] = True
        for parent in body.users_collection:
            parent.children.link(collection)
        for light in made:
            light[environment.PART], light.data[removal.MADE] = light.name, True
            collection.objects.link(light)
    for material in _materials(body):
        _limit(material)
    return made


def _add_lamps(body: bpy.types.Object) -> list[bpy.types.Object]:
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
        name = f"{body.name} lamp {number} ({_number(data.energy)} W, {100 * share:.0f} %)"
        light = bpy.data.objects.new(name, data)
        place = lamp.place + lamp.normal * _BEFORE * data.size
        turn = Vector(lamp.normal).to_track_quat("-Z", "Y").to_matrix().to_4x4()
        light.matrix_world = part.matrix_world @ Matrix.Translation(place) @ turn
        light.visible_camera = False
        light[SHARE] = share
        lights.append(light)
    return lights


def _add_sun(body: bpy.types.Object) -> list[bpy.types.Object]:
    """Add a lamp for the sun in the environment's world, which loses it; without a distinct sun, none."""
    shown = body.get(environment.WORLD)
    pose, strength = (None, None) if shown is None else (world.rotation(shown), world.strength(shown))
    node = None if shown is None else _light_node(shown)
    if pose is None or strength is None or node is None or node.image is None:
        return []
    light = pixels.read_light(node.image)
    rest, sun = split_sun(light)
    if sun is None:
        return []
    image = images.create_float(f"{body.name} light without sun", rest, "Linear Rec.709")
    image[removal.MADE] = True
    node[_WITH_SUN], node[_WITHOUT_SUN], node.image = node.image, image, image
    whole = float((light @ LUMINANCE * solid_angles(*light.shape[:2])).sum())
    share = sun.irradiance * float(sun.colour @ LUMINANCE) / whole
    data = bpy.data.lights.new(f"{body.name} sun", "SUN")
    data.energy, data.color, data.angle = sun.irradiance * strength.default_value, sun.colour, sun.diameter_rad
    lamp = bpy.data.objects.new(f"{body.name} sun ({_number(data.energy)} W/m², {100 * share:.0f} %)", data)
    towards = pose.to_3x3() @ Vector(sun.direction)
    lamp.matrix_world = (
        Matrix.Translation(body.matrix_world.translation + _SUN_M * towards)
        @ towards.to_track_quat("Z", "Y").to_matrix().to_4x4()
    )
    lamp[SHARE], lamp[world.ONLY_IN] = share, shown
    lamp.hide_viewport = lamp.hide_render = bpy.context.scene.world != shown
    return [lamp]


def _light_node(shown: bpy.types.World) -> bpy.types.Node | None:
    """Return the node of the image that lights the scene in Cycles; None where the camera's image does, and no sky is
    seen through the mesh.
    """
    return shown.node_tree.nodes.get(sources.LIGHT)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


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
    """Return whether the lights of an environment are objects now."""
    shown = body.get(environment.WORLD)
    node = None if shown is None else _light_node(shown)
    return any(_NODE in one.node_tree.nodes for one in _materials(body)) or (node is not None and _WITH_SUN in node)


def remove(body: bpy.types.Object) -> None:
    """Remove the lights, and give their light back to the lamps' surfaces and the world.

    An image that the user has chosen for the world since stays, and so do copies of the lights.
    """
    made = _give_back(body)
    lights = lights_of(body)
    own = [one for parent in body.users_collection for one in environment.own_collections(parent)]
    data = [light.data for light in lights if light.data.users == 1]
    doomed = [*lights, *data, *([made] if made is not None and not made.users else [])]
    bpy.data.batch_remove(doomed)
    bpy.data.batch_remove([one for one in own if not one.objects and not one.children])


def _give_back(body: bpy.types.Object) -> bpy.types.Image | None:
    """Let the lamps' surfaces and the world light the scene again. Return the image that `add` made for the world."""
    for material in _materials(body):
        nodes = material.node_tree.nodes
        if _NODE in nodes:
            nodes.remove(nodes[_NODE])
            _principled(material).inputs["Emission Strength"].default_value = 1.0
    shown = body.get(environment.WORLD)
    node = None if shown is None else _light_node(shown)
    if node is None or _WITH_SUN not in node:
        return None
    with_sun, made = node.pop(_WITH_SUN), node.pop(_WITHOUT_SUN, None)
    # Either may have been removed since, then it is None; without the one with the sun, the sky is kept.
    if with_sun is not None and made is not None and node.image == made:
        node.image = with_sun
    return made


def _disabled_reason() -> str:
    if reason := environment.disabled_reason():
        return reason
    body = environment.find(bpy.context)
    return "" if _materials(body) or body.get(environment.WORLD) is not None else "The environment has no lamps"


class PANOFORM_OT_lamps_as_lights(bpy.types.Operator):
    """Make each lamp of the environment, and its sun, a light object, which can be moved, changed and switched off;
    press again to return. The lamps still shine for the camera; in EEVEE the world keeps its sun"""

    bl_idname = "panoform.lamps_as_lights"
    bl_label = "Lamps as Lights"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        body = environment.find(context)
        if are_separate(body):
            remove(body)
            return FINISHED
        with all_or_nothing(context.scene, lambda: _give_back(body)):
            made = add(body)
        if not made:
            self.report({"INFO"}, "There are no lamps and no distinct sun: nothing was changed.")
            return CANCELLED
        self.report({"INFO"}, f"{counted(len(made), 'light')}: " + ", ".join(one.name for one in made[:3]))
        return FINISHED


CLASSES = (PANOFORM_OT_lamps_as_lights,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
