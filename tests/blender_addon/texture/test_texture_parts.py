"""Which faces and instances of a selection get the texture, and which only hide it."""

from __future__ import annotations

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from textured import rendered, texture

from panoform.blender_addon import preferences
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.texture import mesh, parts
from panoform.blender_addon.texture.build import SELECTION
from panoform.shared.protocol.errors import InputError, SceneError


def add(kind: str, **options) -> bpy.types.Object:
    getattr(bpy.ops.mesh, f"primitive_{kind}_add")(**options)
    return bpy.context.view_layer.objects.active


def select(thing: bpy.types.Object, axis: int, sign: float) -> np.ndarray:
    """Select the faces of an object that face an axis, and return which those are."""
    faces = np.array([sign * face.normal[axis] > 0.9 for face in thing.data.polygons])
    thing.data.polygons.foreach_set("select", faces)
    return faces


def instance(name: str, collection: bpy.types.Collection, **options) -> bpy.types.Object:
    """Select an instance of a collection."""
    empty = bpy.data.objects.new(name, None)
    empty.instance_type, empty.instance_collection = "COLLECTION", collection
    for key, value in options.items():
        setattr(empty, key, value)
    bpy.context.scene.collection.objects.link(empty)
    for thing in bpy.context.selected_objects:
        thing.select_set(False)
    empty.select_set(True)
    bpy.context.view_layer.objects.active = empty
    bpy.context.view_layer.update()
    return empty


def kit(*things: bpy.types.Object) -> bpy.types.Collection:
    """Move objects into a collection that the scene doesn't show."""
    collection = bpy.data.collections.new("kit")
    for thing in things:
        collection.objects.link(thing)
        bpy.context.scene.collection.objects.unlink(thing)
    return collection


def instances_on_points(thing: bpy.types.Object, instanced: bpy.types.Object) -> None:
    """Give an object a modifier that adds three instances of another, 4 apart."""
    tree = bpy.data.node_groups.new("instances", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    kinds = ("NodeGroupInput", "NodeGroupOutput", "GeometryNodeMeshLine", "GeometryNodeObjectInfo",
             "GeometryNodeInstanceOnPoints", "GeometryNodeJoinGeometry")  # fmt: skip
    given, made, line, info, points, joined = (tree.nodes.new(kind) for kind in kinds)
    line.inputs["Count"].default_value = 3
    line.inputs["Offset"].default_value = (4, 0, 0)
    info.inputs["Object"].default_value = instanced
    info.inputs["As Instance"].default_value = True
    tree.links.new(line.outputs[0], points.inputs["Points"])
    tree.links.new(info.outputs["Geometry"], points.inputs["Instance"])
    for output in (given.outputs[0], points.outputs[0]):
        tree.links.new(output, joined.inputs[0])
    tree.links.new(joined.outputs[0], made.inputs[0])
    thing.modifiers.new("instances", "NODES").node_group = tree
    bpy.context.view_layer.update()


@pytest.mark.usefixtures("addon")
def test_selected_faces_are_chosen_also_behind_modifiers():
    thing = add("cube")
    select(thing, 1, -1)
    thing.modifiers.new("smooth", "SUBSURF").levels = 2
    thing.modifiers["smooth"].subdivision_type = "SIMPLE"
    read = mesh.read([thing], faces=parts.selected_faces)
    assert read.triangles.chosen is not None
    chosen = read.triangles.corners[read.triangles.chosen > 0]
    assert len(chosen) == 2 * 16
    np.testing.assert_allclose(chosen[..., 1], -1, atol=1e-6)
    assert len(read.triangles.corners) == 6 * 2 * 16, "the others hide"
    thing.modifiers.clear()
    thing.data.uv_layers.remove(thing.data.uv_layers[0])
    read = mesh.read([thing], faces=parts.selected_faces)
    (uv,) = read.new_uv
    faces = uv.reshape(6, 4, 2)
    area = np.ptp(faces, axis=1).prod(axis=-1)
    assert (area > 0).sum() == 1, "only the chosen face takes room in the new UV map"
    assert area.max() > 0.9


@pytest.mark.usefixtures("addon")
def test_faces_of_shared_meshes_and_no_faces_are_refused():
    thing = add("cube")
    thing.data.polygons.foreach_set("select", np.zeros(6, bool))
    with pytest.raises(InputError, match="No face is chosen"):
        mesh.read([thing], faces=parts.selected_faces)
    select(thing, 2, 1)
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("twin", thing.data))
    with pytest.raises(SceneError, match="used by other objects"):
        mesh.read([thing], faces=parts.selected_faces)
    select(thing, 2, 0)


@pytest.mark.usefixtures("addon")
def test_meshes_with_a_fake_user_are_not_shared():
    thing = add("cube")
    thing.data.use_fake_user = True
    select(thing, 2, 1)
    read = mesh.read([thing], faces=parts.selected_faces)
    assert read.triangles.chosen is not None
    assert read.triangles.chosen.sum() == 2


@pytest.mark.slow
def test_only_selected_faces_get_the_texture(set_up: Jobs, reference, tmp_path) -> None:
    """A cube turned so that Cycles sees two of its faces: one is red, the other stays blue; so after Bake Again."""
    preferences.get().multiview_model = ""
    thing = add("cube", rotation=(0, 0, np.pi / 4))
    blue = bpy.data.materials.new("blue")
    cycles.use_nodes(blue)
    blue.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (0, 0, 1, 1)
    blue.node_tree.nodes["Principled BSDF"].inputs["Emission Color"].default_value = (0, 0, 1, 1)
    blue.node_tree.nodes["Principled BSDF"].inputs["Emission Strength"].default_value = 1
    thing.data.materials.append(blue)
    faces = select(thing, 1, -1)
    first = texture(reference="disc", only_selected_faces=True)
    assert [slot.material for slot in thing.material_slots] == [blue, first]
    np.testing.assert_array_equal(parts.slots(thing.data, 2), np.where(faces, 1, 0))
    select(thing, 2, 1)  # which Bake Again doesn't mind
    assert bpy.ops.panoform.bake_texture_again(size=128) == {"FINISHED"}
    again = thing.material_slots[1].material
    assert [slot.material for slot in thing.material_slots] == [blue, again]
    assert again != first
    np.testing.assert_array_equal(parts.slots(thing.data, 2), np.where(faces, 1, 0))
    shown = rendered(again, mesh.read([thing]).triangles, 64, tmp_path)
    left, right = shown[32, 18, :3], shown[32, 46, :3]  # −Y turned by 45° faces right
    np.testing.assert_allclose(right, (0.8, 0.15, 0.1), atol=0.05)
    assert left[2] > 0.9
    assert left[0] < 0.1


@pytest.mark.usefixtures("addon")
def test_instances_of_a_collection_give_their_objects():
    cube, sphere = add("cube"), add("uv_sphere", location=(3, 0, 0), segments=8, ring_count=6)
    collection = kit(cube, sphere)
    empty = instance("first", collection, location=(0, 7, 0), scale=(2, 2, 2))
    read = mesh.read(mesh.selected(bpy.context.view_layer))
    assert read.selection == ("first",)
    assert set(read.objects) == {cube.session_uid, sphere.session_uid}
    low, high = read.triangles.corners.min((0, 1)), read.triangles.corners.max((0, 1))
    np.testing.assert_allclose([low, high], [(-2, 5, -2), (8, 9, 2)], atol=1e-4)
    assert read.triangles.chosen is None
    assert not read.notice
    second = instance("second", collection)
    twice = mesh.read([empty, second])
    assert len(twice.triangles.corners) == 2 * len(read.triangles.corners)
    assert twice.triangles.chosen is not None
    assert twice.triangles.chosen.sum() == len(read.triangles.corners), "an object has one texture, from one instance"
    assert twice.notice == "Further instances of what is textured show the same texture."


@pytest.mark.usefixtures("addon")
def test_instances_of_modifiers_only_hide():
    cube, sphere = add("cube"), add("uv_sphere", segments=8, ring_count=6)
    kit(cube)
    instances_on_points(sphere, cube)
    read = mesh.read([sphere])
    assert read.objects == (sphere.session_uid,)
    assert read.triangles.chosen is not None
    own = read.triangles.corners[read.triangles.chosen > 0]
    assert np.abs(own).max() < 1.01
    hiding = read.triangles.corners[read.triangles.chosen == 0]
    assert len(hiding) == 3 * 12
    np.testing.assert_allclose([hiding.min((0, 1)), hiding.max((0, 1))], [(-1, -1, -1), (9, 1, 1)], atol=1e-5)
    assert read.notice == "Instances of other objects only hide, and keep their materials."


@pytest.mark.usefixtures("addon")
def test_what_shows_only_instances_is_refused_as_such():
    cube, sphere = add("cube"), add("uv_sphere", segments=8, ring_count=6)
    instances_on_points(sphere, cube)
    tree = sphere.modifiers[0].node_group
    (given,) = (node for node in tree.nodes if node.bl_idname == "NodeGroupInput")
    tree.links.remove(given.outputs[0].links[0])
    bpy.context.view_layer.update()
    message = "'Sphere' shows no faces of its own"
    with pytest.raises(SceneError, match=message):
        mesh.read([sphere])
    with pytest.raises(SceneError, match=message):
        mesh.read([cube, sphere])
    inside = instance("inside", kit(sphere))
    with pytest.raises(SceneError, match=message):
        mesh.read([inside])


@pytest.mark.usefixtures("addon")
def test_instancer_that_is_not_shown_is_refused_as_such():
    plane, child = add("plane", size=4), add("cube", location=(0, 0, 5))
    child.parent, plane.instance_type, plane.show_instancer_for_viewport = plane, "FACES", False
    bpy.context.view_layer.update()
    with pytest.raises(SceneError, match="'Plane' shows no faces of its own, at most instances"):
        mesh.read([plane])
    plane.show_instancer_for_viewport = True
    bpy.context.view_layer.update()
    assert mesh.read([plane]).objects == (plane.session_uid,)


@pytest.mark.usefixtures("addon")
def test_faces_that_only_modifiers_make_are_refused_as_such():
    thing = add("plane")
    thing.data.clear_geometry()
    thing.data.from_pydata([(1, 0, 0), (1, 0, 1)], [(0, 1)], [])
    thing.modifiers.new("turned", "SCREW")
    bpy.context.view_layer.update()
    with pytest.raises(InputError, match="Modifiers make all faces of 'Plane'"):
        mesh.read([thing])


@pytest.mark.slow
def test_instanced_collection_is_textured_and_baked_again(set_up: Jobs, reference, tmp_path) -> None:
    preferences.get().multiview_model = ""
    cube = add("cube")
    collection = kit(cube)
    empty = instance("shown", collection, location=(5, 1, 0), rotation_euler=(0, 0, 0.3))
    other = instance("other", collection, location=(5, -9, 0))  # in front of it, and not selected
    other.select_set(False)
    empty.select_set(True)
    bpy.context.view_layer.objects.active = empty
    material = texture(reference="disc")
    assert [slot.material for slot in cube.material_slots] == [material]
    assert SELECTION in material
    graph = bpy.context.evaluated_depsgraph_get()
    shown = [one.object.material_slots[0].material.original for one in graph.object_instances if one.is_instance]
    assert shown == [material, material], "the instance that wasn't selected shows the texture, too"
    empty.location = (0, 0, 0)
    bpy.context.view_layer.update()
    assert bpy.ops.panoform.bake_texture_again(size=128) == {"FINISHED"}
    again = cube.material_slots[0].material
    assert again != material
    bpy.data.objects.remove(other)
    image = rendered(again, mesh.read([empty]).triangles, 64, tmp_path)
    inside = image[..., 3] > 0.99
    assert inside.sum() > 1000
    np.testing.assert_allclose(image[inside][:, :3], np.broadcast_to((0.8, 0.15, 0.1), (inside.sum(), 3)), atol=0.03)


@pytest.mark.slow
def test_nothing_prints_through_what_only_hides(set_up: Jobs, reference) -> None:
    """A plate close behind another, which isn't chosen: the front view's red must not be on it."""
    before, behind = (add("cube", location=(0, y, 0), scale=(size, 0.02, size)) for y, size in ((-0.3, 1), (0, 0.8)))
    before.select_set(True)
    for thing, sign in ((before, 0), (behind, 1)):
        select(thing, 1, sign)
        thing.data.polygons.foreach_set("select", np.full(6, sign > 0))
    preferences.get().multiview_model = ""
    with pytest.raises(RuntimeError, match="No view shows the faces"):
        texture(reference="disc", only_selected_faces=True)
    read = mesh.read([behind, before], faces=parts.selected_faces)
    assert read.objects == (behind.session_uid,)
