"""Texture and views → a material of the textured objects."""

from __future__ import annotations

from collections.abc import Callable

import bpy
import msgspec
import numpy as np
from mathutils import Matrix

from ...shared.jobs.texture import VIEWS, TextureInfo, TextureReply
from ...shared.protocol.errors import SceneError
from ..scene import images, rays
from ..scene.datablocks import all_or_nothing
from . import parts
from .mesh import TexturedMesh, add_uv, check_addable

#: Custom properties of a material: the record, the name and pose of the first that was selected, and a view's image.
RECORD, FIRST, POSE, VIEW = "panoform_texture", "panoform_first_object", "panoform_pose", "panoform_view_{}"
#: Where instances of collections were selected: the names of all that was, as JSON.
SELECTION = "panoform_selection"


def build(
    scene: bpy.types.Scene, reply: TextureReply, record: TextureInfo, mesh: TexturedMesh, name: str
) -> bpy.types.Material:
    """Give the objects of `mesh` a new material with the texture; it keeps the views and `record`.

    It gets all slots of an object, or, where only some of its faces have the texture, one slot.

    The materials that were in the slots stay in the file. Raise SceneError where an object is gone or was edited since,
    PanoramaError for a damaged texture; nothing is changed then.
    """
    objects = _find(mesh)
    with all_or_nothing(scene, _restoring(objects, mesh.uv_name)):
        texture = images.create_from_file(f"{name} texture", reply.texture, "sRGB")
        material = _material(name, texture, mesh.uv_name)
        material[RECORD] = msgspec.json.encode(record).decode()
        material[FIRST] = mesh.selection[0]
        if mesh.instanced:
            material[SELECTION] = msgspec.json.encode(mesh.selection).decode()
        material[POSE] = [value for row in mesh.pose for value in row]
        for view in VIEWS:
            # The property is a user of the image, so that it is saved with the material.
            material[VIEW.format(view)] = images.create_from_file(f"{name} view {view}", reply.views[view], "sRGB")
        for thing, uv, faces in zip(objects, mesh.new_uv or [None] * len(objects), mesh.faces, strict=True):
            if uv is not None:
                add_uv(thing, mesh.uv_name, uv)
            if faces is None:
                _assign(thing, material)
            else:
                _assign_faces(thing, material, faces)
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
            _indices(thing.data),
        )
        for thing in objects
    ]

    def restore() -> None:
        for thing, slots, had_uv, active, render, indices in before:
            materials = thing.data.materials
            if not slots:
                materials.clear()  # after popping the last one, objects would keep an empty slot
            while len(materials) > len(slots):
                materials.pop()
            thing.data.polygons.foreach_set("material_index", indices)  # last: both change it
            thing.data.update()
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
            raise _edited(thing)
    for thing, faces in zip(objects, mesh.faces, strict=True):
        if faces is not None and len(thing.data.polygons) != len(faces):
            raise _edited(thing)
    return objects


def _edited(thing: bpy.types.Object) -> SceneError:
    return SceneError(f"{thing.name!r} was edited since its texture was requested.", "Texture it again.")


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
    shared = parts.is_shared(thing.data)
    if not thing.material_slots:
        thing.data.materials.append(None if shared else material)
    for slot in thing.material_slots:
        before = slot.material
        if shared:
            slot.link = "OBJECT"
        slot.material = material
        if before is not None and before != material and not before.users:
            before.use_fake_user = True


def _assign_faces(thing: bpy.types.Object, material: bpy.types.Material, faces: np.ndarray) -> None:
    """Give some faces of an object, (P,) bool, the material: in a slot that only they use, or in a new one."""
    materials = thing.data.materials
    if not materials:
        materials.append(None)  # that of the other faces
    index = parts.slots(thing.data, len(materials))
    own = set(index[faces].tolist()) - set(index[~faces].tolist())
    if own:
        slot = min(own)
        before, thing.material_slots[slot].material = thing.material_slots[slot].material, material
        if before is not None and not before.users:
            before.use_fake_user = True
    else:
        slot = len(materials)
        materials.append(material)
    index[faces] = slot
    thing.data.polygons.foreach_set("material_index", index)
    thing.data.update()


def _indices(mesh: bpy.types.Mesh) -> np.ndarray:
    values = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("material_index", values)
    return values
