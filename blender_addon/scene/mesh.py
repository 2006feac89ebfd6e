"""The backend's mesh → an object with a material for each part of it."""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.jobs.scene import Part, SceneReply
from . import images, material, rays


def create(name: str, reply: SceneReply) -> bpy.types.Object:
    """Create the object, not linked to a collection; its origin is the panorama's centre.

    Raise PanoramaError for a damaged texture.
    """
    mesh = bpy.data.meshes.new(name)
    _set_geometry(mesh, reply.positions, reply.triangles, reply.uv)
    for part in reply.parts:
        mesh.materials.append(_material(name, part))
    index = np.repeat(np.arange(len(reply.parts), dtype=np.int32), [part.triangles for part in reply.parts])
    mesh.polygons.foreach_set("material_index", index)
    mesh.shade_smooth()
    return bpy.data.objects.new(name, mesh)


def _set_geometry(mesh: bpy.types.Mesh, positions: np.ndarray, triangles: np.ndarray, uv: np.ndarray) -> None:
    """Fill an empty mesh; the arrays are as in SceneReply."""
    count = len(triangles)
    mesh.vertices.add(len(positions))
    mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(positions, np.float32).ravel())
    mesh.loops.add(3 * count)
    mesh.attributes[".corner_vert"].data.foreach_set("value", triangles.astype(np.int32).ravel())
    mesh.polygons.add(count)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    mesh.uv_layers.new(name=rays.UV_NAME, do_init=False).uv.foreach_set(
        "vector", np.ascontiguousarray(uv, np.float32).ravel()
    )
    mesh.update(calc_edges=True)


def _material(name: str, part: Part) -> bpy.types.Material:
    label = name if part.name == "visible" else f"{name} {part.name}"
    textures = {
        kind: images.create_from_file(f"{label} {kind}", texture.data, texture.colorspace)
        for kind, texture in part.textures.items()
    }
    return material.create_one_sided(label, textures)
