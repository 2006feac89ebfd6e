"""What a selection consists of: meshes that get a texture, and instances that only hide them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

#: (object, its own mesh or an evaluated one) → which of the mesh's faces are meant, (P,) bool.
Faces = Callable[[bpy.types.Object, bpy.types.Mesh], np.ndarray]


class Part(NamedTuple):
    """A mesh at a place. It is valid until the next one is asked for."""

    #: Evaluated.
    thing: bpy.types.Object
    #: World matrix.
    world: Matrix
    #: Whether it gets the texture; else it only hides others.
    textured: bool
    #: What was selected and shows it: the mesh itself, or what instances it.
    shower: bpy.types.Object


def all_faces(_thing: bpy.types.Object, mesh: bpy.types.Mesh) -> np.ndarray:
    """Mean all faces."""
    return np.ones(len(mesh.polygons), bool)


def selected_faces(_thing: bpy.types.Object, mesh: bpy.types.Mesh) -> np.ndarray:
    """Mean the faces that are selected in Edit Mode; modifiers pass that on to the faces that they make."""
    selected = np.empty(len(mesh.polygons), bool)
    mesh.polygons.foreach_get("select", selected)
    return selected


def faces_with(material: bpy.types.Material) -> Faces:
    """Mean the faces that have a material."""

    def faces(thing: bpy.types.Object, mesh: bpy.types.Mesh) -> np.ndarray:
        has = [slot.material is not None and slot.material.original == material for slot in thing.material_slots]
        return np.array(has or [False])[slots(mesh, len(has))]

    return faces


def slots(mesh: bpy.types.Mesh, count: int) -> np.ndarray:
    """Return the number of the material slot of each face, (P,), of `count` slots: beyond, Blender uses the last."""
    index = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("material_index", index)
    return index.clip(0, max(count - 1, 0))


def is_shared(mesh: bpy.types.Mesh) -> bool:
    """Return whether several objects use a mesh."""
    return mesh.users - mesh.use_fake_user > 1


def has_meshes(thing: bpy.types.Object) -> bool:
    """Return whether an object is a mesh, or an instance of a collection with meshes."""
    return bool(owners([thing]))


def owners(objects: Sequence[bpy.types.Object]) -> list[bpy.types.Object]:
    """Return the mesh objects that get the texture of `objects`: these, and those of collections they instance."""
    found: dict[bpy.types.Object, None] = {}
    for thing in objects:
        if thing.type == "MESH":
            found[thing] = None
        elif thing.instance_type == "COLLECTION" and thing.instance_collection is not None:
            found |= dict.fromkeys(owners(thing.instance_collection.all_objects))  # Blender refuses cycles
    return list(found)


def evaluated(objects: Sequence[bpy.types.Object]) -> Iterator[Part]:
    """Give the meshes and instances of `objects`, with their modifiers in the present pose.

    An owner gets the texture once: where several instances show it, as the first does. What modifiers and particles
    instance only hides.
    """
    depsgraph = bpy.context.evaluated_depsgraph_get()
    single = {thing for thing in objects if thing.type == "MESH"}
    waiting = set(owners(objects)) - single
    collections = set(objects) - single
    for instance in depsgraph.object_instances:
        thing, own = instance.object, instance.object.original
        if thing.type != "MESH":
            continue
        if not instance.is_instance:
            if own in single:
                yield Part(thing, instance.matrix_world.copy(), True, own)
        elif instance.parent.original in single or instance.parent.original in collections:
            textured = own in waiting and instance.parent.original in collections
            waiting -= {own} if textured else set()
            yield Part(thing, instance.matrix_world.copy(), textured, instance.parent.original)
