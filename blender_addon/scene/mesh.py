"""The backend's mesh → objects with a material for each part of it, and one for what emits light.

Each thing is an object of its own, whose origin is the middle of its base. Cycles takes every triangle of a material
with emission for a light source, so only those that show a lamp have it. The backs of lamps are light grey.
"""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.jobs.scene import Part, SceneReply
from ..capture import pixels
from . import images, material, rays


def create(name: str, reply: SceneReply) -> list[bpy.types.Object]:
    """Create the objects, not linked to a collection, in the panorama's frame: the things, and at last the rest, whose
    origin is the panorama's centre.

    Raise PanoramaError for a damaged texture.
    """
    materials: list[bpy.types.Material] = []
    slot = _materials(name, reply, materials)
    thing = reply.thing_of_triangles()
    objects = []
    for index, one in enumerate(reply.things):
        body = _object(f"{name} {one.name}", reply, thing == index, slot, materials, one.origin)
        body.location = one.origin
        objects.append(body)
    return [*objects, _object(f"{name} mesh", reply, thing < 0, slot, materials)]


def _materials(name: str, reply: SceneReply, materials: list[bpy.types.Material]) -> np.ndarray:
    """Append the materials and return the index of each triangle's, (T,) int32."""
    slot = np.empty(len(reply.triangles), np.int32)
    start = 0
    seen: dict[str, bpy.types.Image] = {}
    front: np.ndarray | None = None  # the light of what is visible
    for part in reply.parts:
        label = f"{name} mesh" if part.name == "visible" else f"{name} mesh {part.name}"
        textures = _textures(label, part)
        emission = textures.pop("emission", None)
        light = None if emission is None else pixels.raw(emission)[..., :3]
        if part.name == "visible":
            seen = {kind: image for kind, image in textures.items() if kind not in ("normal", "confidence")}
            front = light
        elif part.name == "back":
            textures, light = seen, front
        slots = slot[start : start + part.triangles]
        slots[:] = len(materials)
        materials.append(material.create_one_sided(label, textures))
        lit = None
        if emission is not None:
            lit = textures | {"emission": emission}
        elif part.name == "back":  # of a lamp: the albedo of its front is black, and its light is the front's alone
            lit = {kind: image for kind, image in textures.items() if kind != "albedo"}
        if lit is not None and light is not None:
            lamps = _shows_light(reply.uv[start : start + part.triangles], light)
            if lamps.any():
                slots[lamps] = len(materials)
                own = part.name != "hidden"  # the light of what is hidden is a guess
                materials.append(material.create_one_sided(f"{label} lamps", lit, lights_scene=own))
        start += part.triangles
    return slot


def _object(
    name: str,
    reply: SceneReply,
    chosen: np.ndarray,
    slot: np.ndarray,
    materials: list[bpy.types.Material],
    origin: tuple[float, float, float] = (0, 0, 0),
) -> bpy.types.Object:
    """Create an object of the `chosen` triangles, (T,) bool; its vertices are relative to `origin`."""
    used, triangles = np.unique(reply.triangles[chosen], return_inverse=True)
    mesh = bpy.data.meshes.new(name)
    positions = reply.positions[used] - np.array(origin, np.float32)
    set_geometry(mesh, positions, triangles.reshape(-1, 3), reply.uv[chosen])
    own, index = np.unique(slot[chosen], return_inverse=True)
    for number in own:
        mesh.materials.append(materials[number])
    mesh.polygons.foreach_set("material_index", index.astype(np.int32))
    mesh.shade_smooth()
    return bpy.data.objects.new(name, mesh)


def set_geometry(mesh: bpy.types.Mesh, positions: np.ndarray, triangles: np.ndarray, uv: np.ndarray) -> None:
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


def _textures(label: str, part: Part) -> dict[str, bpy.types.Image]:
    return {
        kind: images.create_from_file(f"{label} {kind}", texture.data, texture.colorspace)
        for kind, texture in part.textures.items()
    }


def _shows_light(uv: np.ndarray, emission: np.ndarray) -> np.ndarray:
    """Return (T,) bool: whether the bounding box of a triangle's texture coordinates (T, 3, 2) has emission (H, W, 3).

    The box is a pixel larger on each side, by which the texture is interpolated. u is in [−1, 2].
    """
    height, width, _ = emission.shape
    lit = np.tile((emission > 0).any(axis=-1), (1, 3))
    counts = np.zeros((height + 1, 3 * width + 1), np.int32)
    counts[1:, 1:] = lit.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    low, high = uv.min(axis=1), uv.max(axis=1)
    left, right = np.floor((low[:, 0] + 1) * width).astype(int) - 1, np.ceil((high[:, 0] + 1) * width).astype(int) + 1
    top, bottom = np.floor((1 - high[:, 1]) * height).astype(int) - 1, np.ceil((1 - low[:, 1]) * height).astype(int) + 1
    left, right = left.clip(0, 3 * width), right.clip(0, 3 * width)
    top, bottom = top.clip(0, height), bottom.clip(0, height)
    return counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left] > 0
