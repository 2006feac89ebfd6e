"""Removing environments, replacing them, and the user's own world: what is in the file before and after."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
import room_folder
from mathutils import Matrix, Vector

from panoform.blender_addon.capture import sources
from panoform.blender_addon.generate import world_preview
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import environment, images, remove, scale, world
from panoform.blender_addon.scene.build import build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_folder.write(tmp_path_factory.mktemp("maps") / "zimmer")


def mine(scene: bpy.types.Scene) -> bpy.types.World:
    """Give the scene a world and a cube, with a material and an image, of the user's own."""
    own = bpy.data.worlds.new("mine")
    cycles.use_nodes(own)
    scene.world = own
    bpy.ops.mesh.primitive_cube_add()
    material = bpy.data.materials.new("paint")
    cycles.use_nodes(material)
    bpy.context.object.data.materials.append(material)
    texture = material.node_tree.nodes.new("ShaderNodeTexImage")
    texture.image = images.create_float("drawing", np.ones((2, 2, 3), np.float32), "sRGB")
    return own


def everything() -> set[str]:
    """Return the names of all datablocks of the kinds that a build makes."""
    kinds = ("objects", "meshes", "cameras", "materials", "images", "worlds", "collections", "node_groups")
    return {f"{kind} {block.name}" for kind in kinds for block in getattr(bpy.data, kind)}


def build_scene(folder: Path, kind: str) -> None:
    bpy.ops.panoform.build_scene(directory=str(folder), kind=kind, camera_height=room_folder.CAMERA_M)


@pytest.mark.parametrize("kind", ["MESH", "DOME"])
def test_everything_of_a_build_goes_and_nothing_else(addon: Jobs, scene, folder: Path, kind: str) -> None:
    own = mine(scene)
    before = everything()
    build_scene(folder, kind)
    assert len(everything()) > len(before) + 5
    assert world.is_made(scene.world)
    assert bpy.ops.panoform.remove_environment() == {"FINISHED"}
    assert everything() == before
    assert scene.world == own
    assert not bpy.ops.panoform.remove_environment.poll()


@pytest.mark.slow
def test_what_the_user_added_to_the_collection_stays(addon: Jobs, scene, folder: Path) -> None:
    build_scene(folder, "MESH")
    body = environment.find(bpy.context)
    collection, material = environment.collection(body, scene), body.data.materials[0]
    chair = bpy.data.objects.new("chair", bpy.data.meshes.new("chair"))
    chair.data.materials.append(material)
    collection.objects.link(chair)
    textures = [node.image for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeTexImage"]
    bpy.ops.panoform.remove_environment()
    assert [entry.name for entry in collection.objects] == ["chair"]
    assert chair.data.materials[0] == material
    assert all(image.name in bpy.data.images for image in textures)


@pytest.mark.slow
def test_copies_children_and_materials_of_the_user_stay(addon: Jobs, scene, folder: Path) -> None:
    build_scene(folder, "MESH")
    body = environment.find(bpy.context)
    collection = environment.collection(body, scene)
    copy = body.copy()  # as Shift D and Separate: with all custom properties
    copy.data = body.data.copy()
    collection.objects.link(copy)
    child = bpy.data.objects.new("child", None)
    scene.collection.objects.link(child)
    child.parent = body
    child.location = (0, 0, 1)
    bpy.context.view_layer.update()
    place = child.matrix_world.copy()
    own = bpy.data.materials.new("my paint")
    body.data.materials.append(own)
    bpy.ops.panoform.remove_environment()
    assert copy.name in bpy.data.objects
    assert own.name in bpy.data.materials
    assert own.use_fake_user
    np.testing.assert_allclose(child.matrix_world, place, atol=1e-6)


@pytest.mark.slow
def test_second_environment_keeps_the_first_and_the_own_world(addon: Jobs, scene, folder: Path) -> None:
    own = mine(scene)
    build_scene(folder, "MESH")
    first = everything()
    shown = scene.world
    build_scene(folder, "MESH")
    bpy.ops.panoform.remove_environment()
    assert everything() == first
    assert scene.world == own  # the newest world was shown
    world.assign(scene, shown)
    assert bpy.ops.panoform.restore_world() == {"FINISHED"}
    assert scene.world == own
    assert shown.name in bpy.data.worlds
    assert not bpy.ops.panoform.restore_world.poll()


def test_scene_without_a_world_returns_to_none(addon: Jobs, scene, folder: Path) -> None:
    scene.world = None
    build_scene(folder, "DOME")
    bpy.ops.panoform.restore_world()
    assert scene.world is None


@pytest.mark.slow
def test_building_again_replaces_what_was_built_from_the_same_maps(addon: Jobs, scene, folder: Path) -> None:
    scene.panoform.replace_earlier = True
    own = mine(scene)
    build_scene(folder, "MESH")
    first, old = everything(), environment.find(bpy.context).data.as_pointer()
    build_scene(folder, "MESH")
    assert everything() == first, "names without numbers, and nothing left behind"
    assert environment.find(bpy.context).data.as_pointer() != old
    assert scene.camera is not None, "the new one's, as the old one's is gone"
    assert len(environment.all_in(scene)) == 1
    bpy.ops.panoform.restore_world()
    assert scene.world == own


@pytest.mark.slow
def test_what_replaces_a_moved_environment_stands_where_that_was_moved(addon: Jobs, scene, folder: Path) -> None:
    """The first was also scaled by a measured length, which building again keeps, and turned with its world."""
    scene.panoform.replace_earlier = True
    bpy.ops.panoform.build_scene(directory=str(folder), kind="MESH")
    body = environment.find(bpy.context)
    scale.apply(body, 2.0)
    body.location += Vector((3, -1, 0.5))
    camera = next(part for part in environment.parts(body) if part.type == "CAMERA")
    camera.location += Vector((3, -1, 0.5))
    scene.view_layers[0].update()
    environment.turn(scene, 0.7)
    scene.view_layers[0].update()

    def places() -> np.ndarray:
        """Return the corners of the mesh, the place and the direction of the camera, and the axes of the world."""
        body = environment.find(bpy.context)
        lens = next(part for part in environment.parts(body) if part.type == "CAMERA").matrix_world
        corners = [body.matrix_world @ Vector(corner) for corner in body.bound_box]
        return np.array([*corners, lens.translation, lens.col[2].xyz, *world.rotation(scene.world).to_3x3()])

    moved = places()
    for _ in range(2):
        bpy.ops.panoform.build_scene(directory=str(folder), kind="MESH")
        scene.view_layers[0].update()
        np.testing.assert_allclose(places(), moved, atol=1e-4)
        assert len(environment.all_in(scene)) == 1


def test_another_panorama_of_the_same_name_replaces_nothing(addon: Jobs, scene) -> None:
    scene.panoform.replace_earlier = True
    for value in (1.0, 0.5, 0.5):
        panorama = images.create_float("room", np.full((4, 8, 3), value, np.float32), "Linear Rec.709")
        maps = {"distance": images.create_float("distance", np.ones((4, 8, 1), np.float32), "Non-Color")}
        remove.replace_earlier(scene, build(scene, maps, panorama, "room"))
    assert len(environment.all_in(scene)) == 2


@pytest.mark.slow
def test_environment_copied_by_the_user_is_not_replaced(addon: Jobs, scene, folder: Path) -> None:
    scene.panoform.replace_earlier = True
    build_scene(folder, "DOME")
    body = environment.find(bpy.context)
    copy = body.copy()
    environment.collection(body, scene).objects.link(copy)
    build_scene(folder, "DOME")
    assert copy.name in bpy.data.objects
    assert len(environment.all_in(scene)) == 2


@pytest.mark.slow
def test_own_world_stays_while_a_preview_is_shown(addon: Jobs, scene) -> None:
    """Another world is chosen while a panorama is generated."""
    own = mine(scene)
    world_preview.show(scene, np.zeros((4, 8, 3), np.uint8), Matrix())
    assert not world.is_made(scene.world)
    panorama = images.create_float("sky", np.ones((4, 8, 3), np.float32), "Linear Rec.709")
    world.assign(scene, world.create("sky", panorama, Matrix()))
    world_preview.remove()
    assert scene.world.name == "sky"
    assert own.use_fake_user
    world.restore(scene)
    assert scene.world == own


def test_environments_turn_with_their_world(addon: Jobs, scene, folder: Path) -> None:
    """A direction of the panorama stays on the same point of the environment."""
    panorama = images.create_float("sky", np.ones((4, 8, 3), np.float32), "Linear Rec.709")
    pose = Matrix.Translation((1, 2, 1.6)) @ Matrix.Rotation(0.4, 4, "Z") @ Matrix.Rotation(0.05, 4, "X")
    maps = {"distance": images.create_float("distance", np.ones((4, 8, 1), np.float32), "Non-Color")}
    collection = build(scene, maps, panorama, "sky", world_from_panorama=pose)
    bpy.context.view_layer.update()
    body = environment.of(collection)
    other = bpy.data.objects.new("other", None)
    other[environment.ENVIRONMENT] = True
    other.matrix_world = Matrix.Rotation(2, 4, "Z")
    scene.collection.objects.link(other)

    assert scene.panoform.rotation == pytest.approx(pose.to_euler().z, abs=1e-6)
    scene.panoform.rotation = 1.5
    bpy.context.view_layer.update()
    turned = sources.world_image(scene)[1]
    turn = Matrix.Rotation(1.5 - pose.to_euler().z, 3, "Z")
    np.testing.assert_allclose(turned.to_3x3(), turn @ pose.to_3x3(), atol=1e-5)
    np.testing.assert_allclose(body.matrix_world.to_3x3(), turned.to_3x3(), atol=1e-5)
    np.testing.assert_allclose(body.matrix_world.translation, (1, 2, 1.6), atol=1e-6)
    assert scene.panoform.rotation == pytest.approx(1.5, abs=1e-6)
    np.testing.assert_allclose(other.matrix_world @ Vector((1, 0, 0)), (math.cos(2), math.sin(2), 0), atol=1e-6)


@pytest.mark.slow
def test_strength_is_that_of_both_renderers(addon: Jobs, scene, folder: Path) -> None:
    build_scene(folder, "MESH")
    world.strength(scene.world).default_value = 3
    assert sources.world_strength(scene) == 3
