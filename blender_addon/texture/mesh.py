"""Selected meshes → the triangles of a texture request.

Objects are evaluated, with their modifiers and instances in the present pose, and their triangles are in world space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.jobs.texture import MAX_TRIANGLES, check_area, check_count, check_finite, check_overlap, check_uv
from ...shared.protocol.errors import InputError, SceneError
from ..translation import tr
from . import parts
from .parts import Faces, Part, all_faces
from .unwrap import unwrap

#: Name of the UV maps that Panoform adds.
UV_NAME = "Panoform"
#: Places per unit of a UV map: faces whose corners are at the same ones are copies of each other.
_UV_PLACES = 2**13
#: Most UV maps of a mesh in Blender.
_MAX_UV_MAPS = 8


class Triangles(NamedTuple):
    """Triangles as in a TextureRequest."""

    corners: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    chosen: np.ndarray | None


class TexturedMesh(NamedTuple):
    """Objects that get one texture. It holds no reference to a datablock."""

    triangles: Triangles
    #: `session_uid` of each object.
    objects: tuple[int, ...]
    #: The faces of each object's own mesh that get the texture, (P,) bool; None: all.
    faces: tuple[np.ndarray | None, ...]
    #: Name of the UV map of all objects.
    uv_name: str
    #: Texture coordinates of the corners of each object's own mesh, (L, 2) float32, for a new UV map of that name;
    #: empty: the objects have it.
    new_uv: tuple[np.ndarray, ...]
    #: Names of what was selected, and the pose of the first, 4 × 4, in the frame of the triangles.
    selection: tuple[str, ...]
    pose: Matrix
    #: Whether collections are instanced by what was selected.
    instanced: bool
    #: Message for the user, or "".
    notice: str


def selected(view_layer: bpy.types.ViewLayer) -> list[bpy.types.Object]:
    """Return the selected meshes and instances of collections with meshes, the active one first."""
    found = [thing for thing in view_layer.objects.selected if parts.has_meshes(thing)]
    return sorted(found, key=lambda thing: thing != view_layer.objects.active)


def read(selection: Sequence[bpy.types.Object], frame: Matrix | None = None, faces: Faces = all_faces) -> TexturedMesh:
    """Return the triangles of objects that get one texture, in the frame of `frame` @ world; None: in world space.

    `selection` as from `selected`; of collections, the objects get it. What isn't of `faces`, and further instances,
    only hides. The UV map is the one that renders use; where it is missing, overlaps itself or leaves [0, 1], one that
    Panoform added earlier, or else a new one by Smart UV Project, which is not added to the meshes yet. Of the copies
    that modifiers make of a face, the first gets the texture, and the others show the same.
    Raise InputError for meshes without faces or area, with NaN, or with too many faces, and where modifiers spoil the
    new UV map; SceneError for linked objects, and for some faces of a mesh that several objects use.
    """
    frame = frame or Matrix.Identity(4)
    for thing in parts.owners(selection):
        if thing.library or thing.data.library:
            raise SceneError(f"{thing.name!r} is linked from another file.", "Make it local first.")
        _changed(thing)
    shown = _shown(selection)
    for thing in parts.owners(selection):
        if thing.data.polygons and thing not in shown.textured and (thing in shown.instancers or not shown.textured):
            raise _only_instances(thing)
    check_count(shown.count)
    chosen = {thing: faces(thing, thing.data) for thing in parts.owners(selection)}
    objects = [thing for thing, some in chosen.items() if some.any()]
    if not objects and faces is all_faces:
        raise InputError(
            f"Modifiers make all faces of {selection[0].name!r}.",
            "Apply them (Object ▸ Apply ▸ Visual Geometry to Mesh).",
        )
    if not objects:
        raise InputError("No face is chosen.", "Select faces in Edit Mode, or turn off Only Selected Faces.")
    own = tuple(None if chosen[thing].all() else chosen[thing] for thing in objects)
    for thing, some in zip(objects, own, strict=True):
        if some is not None and parts.is_shared(thing.data):
            raise SceneError(
                f"The mesh of {thing.name!r} is used by other objects, whose faces would change, too.",
                "Make it single-user (Object ▸ Relations), or texture all its faces.",
            )

    def made(name: str, new_uv: tuple[np.ndarray, ...]) -> TexturedMesh:
        triangles = _triangles(selection, name, frame, faces, objects)
        check_finite("corners", triangles.corners)
        check_area(triangles.corners)
        repeated = bool(uv_error(triangles)) and _is_usable_without_modifiers(objects, name, faces)
        if repeated:
            triangles = _triangles(selection, name, frame, _without_copies(faces, name), objects)
        return TexturedMesh(
            triangles, tuple(thing.session_uid for thing in objects), own,
            name, new_uv, tuple(thing.name for thing in selection), frame @ selection[0].matrix_world,
            any(thing.type != "MESH" for thing in selection), _notice(shown.hiding, objects, repeated),
        )  # fmt: skip

    for name in _usable_names(objects):
        mesh = made(name, ())
        if not uv_error(mesh.triangles):
            return mesh
    _check_owners(objects)
    name, new_uv = _free_name(objects), unwrap(objects, own)
    with _added(objects, name, new_uv):
        missing = [thing for thing in _evaluated(objects) if name not in thing.data.uv_layers]
        if missing and not missing[0].data.polygons:
            raise _only_instances(missing[0])
        if missing:
            raise InputError(
                f"The modifiers of {missing[0].name!r} make a mesh without its UV maps.",
                "Apply them, or add a UV map in them.",
            )
        mesh = made(name, new_uv)
    error = uv_error(mesh.triangles)
    if error:
        raise InputError(f"Modifiers change the UV map: {error}", "Apply these modifiers, then try again.")
    return mesh


def uv_error(triangles: Triangles) -> str:
    """Return why the UV map of the chosen triangles can't be used for a texture; "" if it can."""
    chosen = slice(None) if triangles.chosen is None else triangles.chosen > 0
    uv = triangles.uv[chosen]
    if not len(uv):
        return ""  # modifiers have removed them: the request is refused
    try:
        check_uv(uv, triangles.corners[chosen])
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


def _is_usable_without_modifiers(objects: Sequence[bpy.types.Object], name: str, faces: Faces) -> bool:
    """Return whether the objects' own meshes have a UV map of that name that can be used for a texture."""
    found = []
    for thing in objects:
        mesh = thing.data
        if name not in mesh.uv_layers:
            return False
        mesh.calc_loop_triangles()
        chosen = faces(thing, mesh)[_read(mesh.loop_triangles, "polygon_index", 1, np.int32)[:, 0]]
        corners = _read(mesh.loop_triangles, "loops", 3, np.int32)[chosen]
        points = _read(mesh.vertices, "co", 3)[_read(mesh.loop_triangles, "vertices", 3, np.int32)[chosen]]
        found.append((points, _read(mesh.uv_layers[name].uv, "vector", 2)[corners]))
    points, uv = (np.concatenate(some) for some in zip(*found, strict=True))
    return not uv_error(Triangles(points, points, uv, None))


def _free_name(objects: Sequence[bpy.types.Object]) -> str:
    used = {layer.name for thing in objects for layer in thing.data.uv_layers}
    names = (UV_NAME, *(f"{UV_NAME} {number}" for number in range(2, len(used) + 3)))
    return next(name for name in names if name not in used)


def _evaluated(objects: Sequence[bpy.types.Object]) -> list[bpy.types.Object]:
    depsgraph = bpy.context.evaluated_depsgraph_get()
    return [thing.evaluated_get(depsgraph) for thing in objects]


class _Shown(NamedTuple):
    """What a selection shows."""

    #: Number of triangles.
    count: int
    #: Those that get the texture and have faces; those that parts which only hide are instances of; what shows these.
    textured: set[bpy.types.Object]
    hiding: set[bpy.types.Object]
    instancers: set[bpy.types.Object]


def _shown(selection: Sequence[bpy.types.Object]) -> _Shown:
    """Return what a selection shows. Raise InputError for too many triangles of instances."""
    count, textured, hiding, instancers = 0, set(), set(), set()
    for part in parts.evaluated(selection):
        triangles = len(part.thing.data.loops) - 2 * len(part.thing.data.polygons)
        count += triangles
        if not part.textured:
            hiding.add(part.thing.original)
            instancers.add(part.shower)
        elif triangles:
            textured.add(part.thing.original)
        if count > MAX_TRIANGLES and hiding:  # there may be millions of them
            check_count(count)
    return _Shown(count, textured, hiding, instancers)


def _only_instances(thing: bpy.types.Object) -> SceneError:
    return SceneError(
        f"{thing.name!r} shows no faces of its own, at most instances.",
        "Make instances real (Object ▸ Apply ▸ Make Instances Real), and select those.",
    )


def _without_copies(faces: Faces, uv_name: str) -> Faces:
    """Mean `faces` without the copies that Mirror, Array or Solidify make: the first at each place of the UV map."""

    def first(thing: bpy.types.Object, mesh: bpy.types.Mesh) -> np.ndarray:
        chosen = np.flatnonzero(faces(thing, mesh))
        places = np.round(_read(mesh.uv_layers[uv_name].uv, "vector", 2).astype(np.float64) * _UV_PLACES)
        # Corners in any order, as a mirrored face has them: the sum of numbers that look random (Knuth's constants).
        mixed = (places.astype(np.int64) @ [1, 4 * _UV_PLACES]).astype(np.uint64) * np.uint64(6364136223846793005)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(1442695040888963407)
        starts = _read(mesh.polygons, "loop_start", 1, np.int32)[:, 0]
        _, once = np.unique(np.add.reduceat(mixed ^ (mixed >> np.uint64(32)), starts)[chosen], return_index=True)
        meant = np.zeros(len(starts), bool)
        meant[chosen[once]] = True
        return meant

    return first


def _notice(hiding: set[bpy.types.Object], objects: Sequence[bpy.types.Object], repeated: bool) -> str:
    """Return the notice about objects shown as instances (`hiding`), and copies that modifiers make (`repeated`);
    `objects` get the texture. "" without any."""
    notices = (
        tr("Copies that modifiers make, as Mirror and Array, show the same picture: apply them to texture each.")
        if repeated
        else "",
        tr("Further instances of what is textured show the same texture.") if hiding & set(objects) else "",
        tr("Instances of other objects only hide, and keep their materials.") if hiding - set(objects) else "",
    )
    return " ".join(filter(None, notices))


def _triangles(
    selection: Sequence[bpy.types.Object],
    uv_name: str,
    frame: Matrix,
    faces: Faces,
    objects: Sequence[bpy.types.Object],
) -> Triangles:
    """Return the triangles of all parts; the evaluated meshes of `objects`, which get the texture, have that UV map."""
    found = []
    for part in parts.evaluated(selection):
        owner = part.thing.original
        textured = part.textured and owner in objects
        # What hides is last; the others have the order of the selection.
        order = objects.index(owner) if textured else len(objects)
        found.append((order, len(found), _of_one(part, uv_name if textured else "", frame, faces)))
    found.sort(key=lambda one: one[:2])
    arrays = [np.ascontiguousarray(np.concatenate(some)) for some in zip(*(one[2] for one in found), strict=True)]
    corners, normals, uv, chosen = arrays
    return Triangles(corners, normals, uv, None if chosen.all() else chosen.astype(np.uint8))


def _of_one(
    part: Part, uv_name: str, frame: Matrix, faces: Faces
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return corners, normals, texture coordinates, and which are chosen, of a part's triangles.

    Without `uv_name` none is chosen.
    """
    mesh = part.thing.to_mesh()
    try:
        mesh.calc_loop_triangles()
        points = _read(mesh.vertices, "co", 3)
        normals = _read(mesh.corner_normals, "vector", 3)
        vertices = _read(mesh.loop_triangles, "vertices", 3, np.int32)
        corners = _read(mesh.loop_triangles, "loops", 3, np.int32)
        if uv_name:
            uv = _read(mesh.uv_layers[uv_name].uv, "vector", 2)
            chosen = faces(part.thing, mesh)[_read(mesh.loop_triangles, "polygon_index", 1, np.int32)[:, 0]]
        else:
            uv, chosen = np.zeros((len(mesh.loops), 2), np.float32), np.zeros(len(vertices), bool)
    finally:
        part.thing.to_mesh_clear()
    world = np.array(frame @ part.world, np.float64)
    turn = world[:3, :3]
    cofactors = np.cross(turn[[1, 2, 0]], turn[[2, 0, 1]])  # turns normals, also where a scale is 0
    if np.linalg.det(turn) < 0:
        vertices, corners, cofactors = vertices[:, ::-1], corners[:, ::-1], -cofactors
    positions = points @ turn.T + world[:3, 3]
    return (
        positions[vertices].astype(np.float32), (normals @ cofactors.T)[corners].astype(np.float32), uv[corners],
        chosen,
    )  # fmt: skip


def _read(collection: bpy.types.bpy_prop_collection, name: str, width: int, dtype: type = np.float32) -> np.ndarray:
    """Return a property of all items, (N, width)."""
    values = np.empty(len(collection) * width, dtype)
    collection.foreach_get(name, values)
    return values.reshape(-1, width)
