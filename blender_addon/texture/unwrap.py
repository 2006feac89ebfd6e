"""A UV map without overlaps for several meshes together, by Blender's Smart UV Project."""

from __future__ import annotations

import math
from collections.abc import Sequence

import bmesh
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
    _split(mesh)
    while mesh.uv_layers:
        mesh.uv_layers.remove(mesh.uv_layers[0])
    mesh.uv_layers.new(do_init=False)
    copy = bpy.data.objects.new(thing.name, mesh)
    scene.collection.objects.link(copy)
    return copy


def _split(mesh: bpy.types.Mesh) -> None:
    """Separate faces at edges of more than two, or of two that face opposite sides; faces and corners keep their order.

    Smart UV Project lays such faces over each other: at their common edge, its charts fit together.
    """
    edge, start = np.empty(len(mesh.loops), np.int32), np.empty(len(mesh.loops), np.int32)
    ends = np.empty(2 * len(mesh.edges), np.int32)
    mesh.loops.foreach_get("edge_index", edge)
    mesh.loops.foreach_get("vertex_index", start)
    mesh.edges.foreach_get("vertices", ends)
    count = np.bincount(edge, minlength=len(mesh.edges))
    forward = np.bincount(edge, start == ends[2 * edge], len(mesh.edges))
    apart = np.flatnonzero((count > 2) | ((count == 2) & (forward != 1)))
    if not len(apart):
        return
    work = bmesh.new()
    try:
        work.from_mesh(mesh)
        work.edges.ensure_lookup_table()
        bmesh.ops.split_edges(work, edges=[work.edges[number] for number in apart])
        work.to_mesh(mesh)
    finally:
        work.free()


def _uv(mesh: bpy.types.Mesh) -> np.ndarray:
    values = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", values)
    return values.reshape(-1, 2)
