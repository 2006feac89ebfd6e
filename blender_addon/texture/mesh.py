"""Selected meshes → the triangles of a texture request.

Objects are evaluated, with their modifiers in the present pose, and their triangles are in world space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.jobs.texture import check_count, check_overlap, check_uv
from ...shared.protocol.errors import InputError, SceneError
from .unwrap import unwrap

#: Name of the UV maps that Panoform adds.
UV_NAME = "Panoform"
#: Most UV maps of a mesh in Blender.
_MAX_UV_MAPS = 8


class Triangles(NamedTuple):
    """Triangles as in a TextureRequest."""

    corners: np.ndarray
    normals: np.ndarray
    uv: np.ndarray


class TexturedMesh(NamedTuple):
    """Objects that get one texture. It holds no reference to a datablock."""

    triangles: Triangles
    #: `session_uid` of each object.
    objects: tuple[int, ...]
    #: Name of the UV map of all objects.
    uv_name: str
    #: Texture coordinates of the corners of each object's own mesh, (L, 2) float32, for a new UV map of that name;
    #: empty: the objects have it.
    new_uv: tuple[np.ndarray, ...]
    #: Pose of the first object, 4 × 4, in the frame of the triangles.
    pose: Matrix


def selected(view_layer: bpy.types.ViewLayer) -> list[bpy.types.Object]:
    """Return the selected mesh objects, the active one first."""
    found = [thing for thing in view_layer.objects.selected if thing.type == "MESH"]
    return sorted(found, key=lambda thing: thing != view_layer.objects.active)


def read(objects: Sequence[bpy.types.Object], frame: Matrix | None = None) -> TexturedMesh:
    """Return the triangles of objects that get one texture, in the frame of `frame` @ world; None: in world space.

    The UV map is the one that renders use; where it is missing, overlaps itself or leaves [0, 1], one that Panoform
    added earlier, or else a new one by Smart UV Project, which is not added to the meshes yet.
    Raise InputError for meshes without faces or with too many, and where modifiers spoil the new UV map; SceneError for
    linked objects.
    """
    frame = frame or Matrix.Identity(4)
    for thing in objects:
        if thing.library or thing.data.library:
            raise SceneError(f"{thing.name!r} is linked from another file.", "Make it local first.")
        _changed(thing)
    uids = tuple(thing.session_uid for thing in objects)
    pose = frame @ objects[0].matrix_world
    check_count(sum(_count(thing) for thing in _evaluated(objects)))
    for name in _usable_names(objects):
        triangles = _triangles(objects, name, frame)
        if not uv_error(triangles.uv):
            return TexturedMesh(triangles, uids, name, (), pose)
    _check_owners(objects)
    name, new_uv = _free_name(objects), unwrap(objects)
    with _added(objects, name, new_uv):
        missing = [thing.name for thing in _evaluated(objects) if name not in thing.data.uv_layers]
        if missing:
            raise InputError(
                f"The modifiers of {missing[0]!r} make a mesh without its UV maps.",
                "Apply them, or add a UV map in them.",
            )
        triangles = _triangles(objects, name, frame)
    error = uv_error(triangles.uv)
    if error:
        raise InputError(
            f"Modifiers repeat the UV map, as Mirror and Array do: {error}", "Apply these modifiers, then try again."
        )
    return TexturedMesh(triangles, uids, name, new_uv, pose)


def uv_error(uv: np.ndarray) -> str:
    """Return why a UV map, (T, 3, 2), can't be used for a texture; "" if it can."""
    try:
        check_uv(uv)
        check_overlap(uv.clip(0, 1))
    except InputError as error:
        return error.message
    return ""


def add_uv(thing: bpy.types.Object, name: str, uv: np.ndarray) -> None:
    """Add a UV map; the active one and that for renders stay."""
    layers = thing.data.uv_layers
    active = layers.active_index
    render = next((layer.name for layer in layers if layer.active_render), name)
    layers.new(name=name, do_init=False).uv.foreach_set("vector", np.ascontiguousarray(uv, np.float32).ravel())
    layers.active_index = active if active >= 0 else 0
    layers[render].active_render = True
    _changed(thing)


def _changed(thing: bpy.types.Object) -> None:
    """Have the object evaluated again: Blender does not notice UV maps that a script adds or removes."""
    thing.data.update()
    thing.update_tag(refresh={"DATA"})


@contextlib.contextmanager
def _added(objects: Sequence[bpy.types.Object], name: str, uv: Sequence[np.ndarray]) -> Iterator[None]:
    """Give the meshes a UV map for a moment."""
    before = [
        (thing, thing.data.uv_layers.active_index, [layer.active_render for layer in thing.data.uv_layers])
        for thing in objects
    ]
    try:
        for thing, coordinates in zip(objects, uv, strict=True):
            add_uv(thing, name, coordinates)
        yield
    finally:
        for thing, active, render in before:
            layers = thing.data.uv_layers
            if name in layers:
                layers.remove(layers[name])
            if render:
                layers.active_index = active
                layers[render.index(True)].active_render = True
            _changed(thing)


def check_addable(thing: bpy.types.Object) -> None:
    """Raise SceneError where its mesh has no place for another UV map."""
    if len(thing.data.uv_layers) >= _MAX_UV_MAPS:
        raise SceneError(f"{thing.name!r} has {_MAX_UV_MAPS} UV maps, as many as it can.", "Remove one of them.")


def _check_owners(objects: Sequence[bpy.types.Object]) -> None:
    """Raise SceneError where no UV map of its own can be added to each object's mesh."""
    owners: dict[bpy.types.Mesh, bpy.types.Object] = {}
    for thing in objects:
        first = owners.setdefault(thing.data, thing)
        if first != thing:
            raise SceneError(
                f"{first.name!r} and {thing.name!r} share one mesh, and would get the same picture.",
                "Make it single-user (Object ▸ Relations), or select one of them.",
            )
        check_addable(thing)


def _usable_names(objects: Sequence[bpy.types.Object]) -> list[str]:
    """Return names of UV maps that all evaluated meshes have: that for renders, if it is the same, and Panoform's."""
    meshes = [thing.data for thing in _evaluated(objects)]
    common = set.intersection(*({layer.name for layer in mesh.uv_layers} for mesh in meshes))
    render = {layer.name for mesh in meshes for layer in mesh.uv_layers if layer.active_render}
    own = sorted(name for name in common - render if name.split(" ")[0] == UV_NAME)
    return [*(render if len(render) == 1 and render <= common else ()), *own]


def _free_name(objects: Sequence[bpy.types.Object]) -> str:
    used = {layer.name for thing in objects for layer in thing.data.uv_layers}
    names = (UV_NAME, *(f"{UV_NAME} {number}" for number in range(2, len(used) + 3)))
    return next(name for name in names if name not in used)


def _evaluated(objects: Sequence[bpy.types.Object]) -> list[bpy.types.Object]:
    depsgraph = bpy.context.evaluated_depsgraph_get()
    return [thing.evaluated_get(depsgraph) for thing in objects]


def _count(evaluated: bpy.types.Object) -> int:
    """Return the number of triangles of an evaluated object."""
    return len(evaluated.data.loops) - 2 * len(evaluated.data.polygons)


def _triangles(objects: Sequence[bpy.types.Object], uv_name: str, frame: Matrix) -> Triangles:
    """Return the triangles of all objects; their evaluated meshes have that UV map."""
    parts = [_of_one(thing, uv_name, frame) for thing in _evaluated(objects)]
    return Triangles(*(np.ascontiguousarray(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)))


def _of_one(evaluated: bpy.types.Object, uv_name: str, frame: Matrix) -> Triangles:
    mesh = evaluated.to_mesh()
    try:
        mesh.calc_loop_triangles()
        points = _read(mesh.vertices, "co", 3)
        normals = _read(mesh.corner_normals, "vector", 3)
        uv = _read(mesh.uv_layers[uv_name].uv, "vector", 2)
        vertices = _read(mesh.loop_triangles, "vertices", 3, np.int32)
        corners = _read(mesh.loop_triangles, "loops", 3, np.int32)
    finally:
        evaluated.to_mesh_clear()
    world = np.array(frame @ evaluated.matrix_world, np.float64)
    turn = world[:3, :3]
    cofactors = np.cross(turn[[1, 2, 0]], turn[[2, 0, 1]])  # turns normals, also where a scale is 0
    if np.linalg.det(turn) < 0:
        vertices, corners, cofactors = vertices[:, ::-1], corners[:, ::-1], -cofactors
    positions = points @ turn.T + world[:3, 3]
    return Triangles(
        positions[vertices].astype(np.float32), (normals @ cofactors.T)[corners].astype(np.float32), uv[corners]
    )


def _read(collection: bpy.types.bpy_prop_collection, name: str, width: int, dtype: type = np.float32) -> np.ndarray:
    """Return a property of all items, (N, width)."""
    values = np.empty(len(collection) * width, dtype)
    collection.foreach_get(name, values)
    return values.reshape(-1, width)
