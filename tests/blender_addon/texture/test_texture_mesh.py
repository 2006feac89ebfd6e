"""Selected meshes as triangles: places, windings and normals, the UV map that is used, and Smart UV Project."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from panoform.blender_addon.texture import mesh, reference
from panoform.shared.imaging.overlap import overlap
from panoform.shared.protocol.errors import InputError, SceneError

pytestmark = pytest.mark.usefixtures("addon")


def cube(**options) -> bpy.types.Object:
    bpy.ops.mesh.primitive_cube_add(**options)
    return bpy.context.view_layer.objects.active


def suzanne() -> bpy.types.Object:
    bpy.ops.mesh.primitive_monkey_add(calc_uvs=False)
    return bpy.context.view_layer.objects.active


def state(thing: bpy.types.Object) -> tuple:
    layers = thing.data.uv_layers
    return (
        [layer.name for layer in layers], layers.active_index, [layer.active_render for layer in layers],
        thing.mode, bpy.context.view_layer.objects.active, list(bpy.context.selected_objects), len(bpy.data.scenes),
        len(bpy.data.meshes), len(bpy.data.objects),
    )  # fmt: skip


def read_uv(thing: bpy.types.Object) -> np.ndarray:
    """Return the texture coordinates of the mesh's own corners, (L, 2)."""
    uv = np.empty(2 * len(thing.data.loops), np.float32)
    thing.data.uv_layers[0].uv.foreach_get("vector", uv)
    return uv.reshape(-1, 2)


def volume(corners: np.ndarray) -> float:
    """Return the volume inside closed triangles, positive where they are anticlockwise seen from outside."""
    return float(np.linalg.det(corners.astype(np.float64)).sum() / 6)


@pytest.mark.parametrize("scale", [(1, 1, 1), (-1, 2, 0.5), (-1, -1, -1)])
def test_triangles_are_in_world_space_and_face_outwards(scale):
    thing = cube()
    thing.matrix_world = Matrix.LocRotScale((3, -2, 1), Matrix.Rotation(0.7, 3, "X"), scale)
    read = mesh.read([thing])
    corners, normals, uv, chosen = read.triangles
    assert chosen is None
    assert corners.shape == normals.shape == (12, 3, 3)
    assert uv.shape == (12, 3, 2)
    points = np.array([thing.matrix_world @ vertex.co for vertex in thing.data.vertices])
    np.testing.assert_allclose(np.unique(corners.reshape(-1, 3).round(4), axis=0), np.unique(points.round(4), axis=0))
    assert volume(corners - corners.mean((0, 1))) == pytest.approx(8 * abs(np.prod(scale)), rel=1e-4)
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    cosine = (faces[:, None] * normals).sum(-1) / np.linalg.norm(faces, axis=-1)[:, None]
    np.testing.assert_allclose(cosine / np.linalg.norm(normals, axis=-1), 1, atol=1e-4)


def test_own_uv_map_for_renders_is_used():
    thing = cube()
    thing.data.uv_layers[0].active_render = True
    other = thing.data.uv_layers.new(name="other")
    other.uv.foreach_set("vector", np.zeros(48, np.float32))
    before = state(thing)
    read = mesh.read([thing])
    assert (read.uv_name, read.new_uv) == (thing.data.uv_layers[0].name, ())
    assert state(thing) == before


@pytest.mark.slow
def test_modifiers_are_applied():
    thing = suzanne()
    thing.modifiers.new("smooth", "SUBSURF").levels = 1
    before = state(thing)
    read = mesh.read([thing])
    assert len(read.triangles.corners) == 4 * 2 * sum(len(face.vertices) for face in thing.data.polygons) // 4
    assert state(thing) == before
    assert read.uv_name == "Panoform"
    (uv,) = read.new_uv
    assert uv.shape == (len(thing.data.loops), 2)
    assert overlap(read.triangles.uv * 1024, 1024, 1024) < 0.005


@pytest.mark.parametrize("fault", ["missing", "outside", "overlapping", "tiny", "partly missing"])
def test_unusable_uv_maps_are_replaced_beside_them(fault):
    thing = cube()
    layer = thing.data.uv_layers[0]
    if fault == "missing":
        thing.data.uv_layers.remove(layer)
    elif fault == "tiny":  # no triangle has a texel of its own
        layer.uv.foreach_set("vector", read_uv(thing).ravel() * 0.001)
    elif fault == "partly missing":  # as where objects with and without a UV map are joined
        uv = read_uv(thing)
        uv[:4] = 0
        layer.uv.foreach_set("vector", uv.ravel())
    else:
        layer.uv.foreach_set("vector", np.tile([0, 0, 1, 0, 1, 1, 0, 1], 6).astype("f") + (fault == "outside"))
    before = state(thing)
    read = mesh.read([thing])
    assert read.uv_name == "Panoform"
    assert state(thing) == before
    mesh.add_uv(thing, read.uv_name, read.new_uv[0])
    assert thing.data.uv_layers.active_index == 0
    again = mesh.read([thing])  # what was added is used from now on
    assert (again.uv_name, again.new_uv) == ("Panoform", ())
    np.testing.assert_array_equal(again.triangles.uv, read.triangles.uv)


def test_two_objects_share_a_uv_map_at_their_sizes():
    small, large = cube(), cube(location=(3, 0, 0), scale=(2, 2, 2))
    read = mesh.read([large, small])
    assert read.objects == (large.session_uid, small.session_uid)
    uv = read.triangles.uv.astype(np.float64)
    area = np.abs(np.linalg.det(np.stack([uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], axis=1)))
    assert area[:12].sum() / area[12:].sum() == pytest.approx(4, rel=0.01)
    assert overlap(uv * 1024, 1024, 1024) < 0.005


def test_frame_moves_the_triangles():
    thing = cube(location=(5, 0, 0))
    read = mesh.read([thing])
    thing.matrix_world = Matrix.Rotation(1, 4, "Z") @ Matrix.Translation((0, 0, 9))
    bpy.context.view_layer.update()
    again = mesh.read([thing], read.pose @ thing.matrix_world.inverted())
    np.testing.assert_allclose(again.triangles.corners, read.triangles.corners, atol=1e-5)


def test_what_cannot_be_textured_is_said():
    thing = cube()
    twin = bpy.data.objects.new("twin", thing.data)
    bpy.context.scene.collection.objects.link(twin)
    with pytest.raises(SceneError, match="share one mesh"):
        mesh.read([thing, twin])
    bpy.data.objects.remove(twin)
    move = thing.modifiers.new("move", "UV_WARP")
    move.offset, move.uv_layer = (3, 0), "Panoform"
    thing.data.uv_layers.remove(thing.data.uv_layers[0])
    before = state(thing)
    with pytest.raises(InputError, match="Modifiers change the UV map: The UV map reaches"):
        mesh.read([thing])
    assert state(thing) == before
    thing.modifiers.clear()
    empty = bpy.data.objects.new("empty", bpy.data.meshes.new("empty"))
    bpy.context.scene.collection.objects.link(empty)
    with pytest.raises(InputError, match="no faces"):
        mesh.read([empty])
    layers = thing.data.uv_layers
    layers.new()
    layers[0].uv.foreach_set("vector", np.zeros(48, np.float32))
    while len(layers) < 8:
        layers.new()
    with pytest.raises(SceneError, match="has 8 UV maps"):
        mesh.read([thing])


@pytest.mark.parametrize("kind", ["MIRROR", "ARRAY", "smooth"])
@pytest.mark.parametrize("has_uv", [True, False])
def test_copies_that_modifiers_make_show_the_picture_of_the_first(kind, has_uv):
    """The mesh and its copy share the UV map, of the user's or new: the first is textured, and the other hides it."""
    thing = cube(location=(2, 0, 0), scale=(0.5, 1, 1))
    if not has_uv:
        thing.data.uv_layers.remove(thing.data.uv_layers[0])
    if kind == "ARRAY":
        thing.modifiers.new("twice", "ARRAY").count = 2
    else:
        middle = bpy.data.objects.new("middle", None)
        bpy.context.scene.collection.objects.link(middle)
        thing.modifiers.new("mirror", "MIRROR").mirror_object = middle
    if kind == "smooth":  # the copies' coordinates then differ in the last digits
        thing.modifiers.new("smooth", "SUBSURF").levels = 2
    read = mesh.read([thing])
    assert read.uv_name == ("UVMap" if has_uv else "Panoform")
    triangles = read.triangles
    count = len(triangles.uv) // 2
    np.testing.assert_array_equal(triangles.chosen, [1] * count + [0] * count)
    first, copy = (np.unique(uv.reshape(-1, 2).round(4), axis=0) for uv in (triangles.uv[:count], triangles.uv[count:]))
    np.testing.assert_allclose(first, copy, atol=2e-4)
    assert overlap(triangles.uv[:count] * 1024, 1024, 1024) < 0.005
    assert "Copies that modifiers make" in read.notice

    # Once they are real faces, they are textured each.
    if has_uv:
        for modifier in list(thing.modifiers):
            bpy.ops.object.modifier_apply(modifier=modifier.name)
        read = mesh.read([thing])
        assert (read.uv_name, read.triangles.chosen, read.notice) == ("Panoform", None, "")


def made_of(points: list[tuple[float, float, float]], faces: list[tuple[int, ...]]) -> bpy.types.Object:
    data = bpy.data.meshes.new("made")
    data.from_pydata(points, [], faces)
    thing = bpy.data.objects.new("made", data)
    bpy.context.scene.collection.objects.link(thing)
    return thing


@pytest.mark.parametrize("faces", [[(0, 1, 2), (0, 1, 3), (0, 1, 4)], [(0, 1, 2), (0, 1, 3)]], ids=["three", "turned"])
def test_faces_at_one_edge_do_not_share_the_new_uv_map(faces):
    """Three of an edge, and two that face opposite sides: Smart UV Project alone lays them over each other."""
    thing = made_of([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)], faces)
    read = mesh.read([thing])
    assert overlap(read.triangles.uv * 1024, 1024, 1024) < 0.005
    (uv,) = read.new_uv
    np.testing.assert_array_equal(read.triangles.uv, uv.reshape(-1, 3, 2))
    assert len(thing.data.edges) == 2 * len(faces) + 1, "its own mesh is as it was"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1, 1, 1)] * 3, "all its points are one"),
        ([(0, 0, 0), (1, 0, 0), (2, 0, 0)], "no area"),
        ([(np.nan, 0, 0), (1, 0, 0), (0, 1, 0)], "not finite"),
    ],
)
def test_meshes_without_a_surface_are_refused_as_such(points, message):
    with pytest.raises(InputError, match=message):
        mesh.read([made_of(points, [(0, 1, 2)])])


def test_reference_keeps_alpha():
    for is_float in (False, True):
        image = bpy.data.images.new("half", 16, 32, alpha=True, float_buffer=is_float)
        rgba = np.zeros((32, 16, 4), np.float32)
        rgba[16:] = (0.2, 0.4, 0.6, 0.5)  # the upper half, whose rows come last in Blender
        image.pixels.foreach_set(rgba.ravel())
        read = reference.read(image)
        assert read.shape == (32, 16, 4)
        assert read.dtype == np.uint8
        assert (read[16:, :, 3] == 0).all()
        # Floats are linear and premultiplied: 0.4, 0.8 and 1.2 (clipped) in sRGB.
        expected = (170, 231, 255, 128) if is_float else (51, 102, 153, 128)
        np.testing.assert_allclose(read[:16].astype(int), np.broadcast_to(expected, (16, 16, 4)), atol=1)
