"""Texture and views → a material of the textured objects."""

from __future__ import annotations

from collections.abc import Callable

import bpy
import msgspec
from mathutils import Matrix

from ...shared.jobs.texture import VIEWS, TextureInfo, TextureReply
from ...shared.protocol.errors import SceneError
from ..scene import images, rays
from ..scene.datablocks import all_or_nothing
from .mesh import TexturedMesh, add_uv, check_addable

#: Custom properties of a material: the record, the name and pose of the first object, and a view's image.
RECORD, FIRST, POSE, VIEW = "panoform_texture", "panoform_first_object", "panoform_pose", "panoform_view_{}"


def build(
    scene: bpy.types.Scene, reply: TextureReply, record: TextureInfo, mesh: TexturedMesh, name: str
) -> bpy.types.Material:
    """Give the objects of `mesh` a new material with the texture, in all their slots; it keeps the views and `record`.

    The materials that were in the slots stay in the file. Raise SceneError where an object is gone or was edited since,
    PanoramaError for a damaged texture; nothing is changed then.
    """
    objects = _find(mesh)
    with all_or_nothing(scene, _restoring(objects, mesh.uv_name)):
        texture = images.create_from_file(f"{name} texture", reply.texture, "sRGB")
        material = _material(name, texture, mesh.uv_name)
        material[RECORD] = msgspec.json.encode(record).decode()
        material[FIRST] = objects[0].name
        material[POSE] = [value for row in mesh.pose for value in row]
        for view in VIEWS:
            # The property is a user of the image, so that it is saved with the material.
            material[VIEW.format(view)] = images.create_from_file(f"{name} view {view}", reply.views[view], "sRGB")
        for thing, uv in zip(objects, mesh.new_uv or [None] * len(objects), strict=True):
            if uv is not None:
                add_uv(thing, mesh.uv_name, uv)
            _assign(thing, material)
    return material


def _restoring(objects: list[bpy.types.Object], uv_name: str) -> Callable[[], None]:
    """Return what gives the objects the materials that they have now, without a new UV map `uv_name`."""
    before = [
        (
            thing,
            [(slot.link, slot.material) for slot in thing.material_slots],
            uv_name in thing.data.uv_layers,
            thing.data.uv_layers.active_index,
            next((layer.name for layer in thing.data.uv_layers if layer.active_render), None),
        )
        for thing in objects
    ]

    def restore() -> None:
        for thing, slots, had_uv, active, render in before:
            if not slots:
                thing.data.materials.clear()
            for slot, (link, material) in zip(thing.material_slots, slots, strict=False):
                slot.link, slot.material = link, material
            layers = thing.data.uv_layers
            if not had_uv and uv_name in layers:
                layers.remove(layers[uv_name])
            if render is not None:
                layers.active_index, layers[render].active_render = active, True

    return restore


def pose(material: bpy.types.Material) -> Matrix:
    """Return the pose of the first object when it was textured, 4 × 4."""
    values = list(material[POSE])
    return Matrix([values[4 * row : 4 * row + 4] for row in range(4)])


def _find(mesh: TexturedMesh) -> list[bpy.types.Object]:
    """Return the objects. Raise SceneError unless all exist with the corners that they had."""
    known = {thing.session_uid: thing for thing in bpy.data.objects}
    missing = [uid for uid in mesh.objects if uid not in known]
    if missing:
        raise SceneError("An object that gets the texture no longer exists.", "Texture it again.")
    objects = [known[uid] for uid in mesh.objects]
    for thing, uv in zip(objects, mesh.new_uv, strict=False):
        check_addable(thing)
        if len(thing.data.loops) != len(uv) or mesh.uv_name in thing.data.uv_layers:
            raise SceneError(f"{thing.name!r} was edited since its texture was requested.", "Texture it again.")
    return objects


def _material(name: str, texture: bpy.types.Image, uv_name: str) -> bpy.types.Material:
    material = bpy.data.materials.new(f"Panoform {name}")
    if bpy.app.version < (5, 0):
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    uv = rays.add(tree, "ShaderNodeUVMap", -600, 0, {}, uv_map=uv_name).outputs["UV"]
    colour = rays.add(tree, "ShaderNodeTexImage", -400, 0, {"Vector": uv}, image=texture).outputs["Color"]
    surface = rays.add(
        tree, "ShaderNodeBsdfPrincipled", -50, 0, {"Base Color": colour, "Roughness": 1.0, "Metallic": 0.0}
    )
    rays.add(tree, "ShaderNodeOutputMaterial", 300, 0, {"Surface": surface.outputs["BSDF"]})
    return material


def _assign(thing: bpy.types.Object, material: bpy.types.Material) -> None:
    """Put the material into all slots of an object. Where others use its mesh, theirs stay."""
    shared = thing.data.users > 1
    if not thing.material_slots:
        thing.data.materials.append(None if shared else material)
    for slot in thing.material_slots:
        before = slot.material
        if shared:
            slot.link = "OBJECT"
        slot.material = material
        if before is not None and before != material and not before.users:
            before.use_fake_user = True
