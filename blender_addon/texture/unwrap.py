"""A UV map without overlaps for several meshes together, by Blender's Smart UV Project."""

from __future__ import annotations

import math
from collections.abc import Sequence

import bpy
import numpy as np

from ..scene.datablocks import temporary_scene

#: Largest angle between faces of an island, and the space between islands, as a share of the UV map.
_ANGLE, _MARGIN = math.radians(66), 0.004


def unwrap(objects: Sequence[bpy.types.Object], faces: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """Return texture coordinates in [0, 1] for the corners of each object's own mesh, (L, 2) float32.

    `faces`: those of each object that get a place, (P,) bool; None: all. The corners of others are at 0. All objects
    share the UV map, at their sizes in the world. The objects are not changed.
    """
    with temporary_scene("Panoform UV") as scene:
        layer = scene.view_layers[0]
        scene.tool_settings.mesh_select_mode = (False, False, True)
        copies = [_copy(thing, scene) for thing in objects]
        for copy, some in zip(copies, faces, strict=True):
            copy.select_set(True, view_layer=layer)
            mesh = copy.data
            mesh.polygons.foreach_set("hide", np.zeros(len(mesh.polygons), bool))
            mesh.polygons.foreach_set("select", np.ones(len(mesh.polygons), bool) if some is None else some)
        layer.objects.active = copies[0]
        with bpy.context.temp_override(scene=scene, view_layer=layer):
            bpy.ops.object.mode_set(mode="EDIT")
            bpy.ops.uv.smart_project(angle_limit=_ANGLE, island_margin=_MARGIN)
            bpy.ops.object.mode_set(mode="OBJECT")
        return tuple(_uv(copy.data) for copy in copies)


def _copy(thing: bpy.types.Object, scene: bpy.types.Scene) -> bpy.types.Object:
    """Add a copy of an object without modifiers, at its place in the world, with one UV map."""
    mesh = bpy.data.meshes.new_from_object(thing)
    mesh.transform(thing.matrix_world)
    while mesh.uv_layers:
        mesh.uv_layers.remove(mesh.uv_layers[0])
    mesh.uv_layers.new(do_init=False)
    copy = bpy.data.objects.new(thing.name, mesh)
    scene.collection.objects.link(copy)
    return copy


def _uv(mesh: bpy.types.Mesh) -> np.ndarray:
    values = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", values)
    return values.reshape(-1, 2)
