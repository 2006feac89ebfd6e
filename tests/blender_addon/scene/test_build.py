"""Built scenes: position, lighting, saving, repeated builds."""

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from mathutils import Matrix

from panoform.blender_addon.capture import pixels
from panoform.blender_addon.scene import images, maps_folder
from panoform.blender_addon.scene.build import build
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear


def small_maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rays = sphere.directions(16, 32)
    return {
        "distance": cycles.box_distance(rays).astype(np.float32),
        "normal": -rays,
        "albedo": rng.random((16, 32, 3), dtype=np.float32),
        "roughness": rng.random((16, 32, 1), dtype=np.float32),
        "metallic": rng.random((16, 32, 1), dtype=np.float32),
        "semantic": rng.random((16, 32, 3), dtype=np.float32),
    }


def sky(height: int = 32) -> np.ndarray:
    """Return an image with a different colour in every direction, brighter than 1."""
    return (1 + sphere.directions(height, 2 * height)) * np.array([0.5, 2.0, 4.0], np.float32)


def panorama() -> bpy.types.Image:
    return images.create_float("panorama", sky(), "Linear Rec.709")


def white_world(scene: bpy.types.Scene) -> None:
    world = bpy.data.worlds.new("white")
    cycles.use_nodes(world)
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world = world


def view(scene: bpy.types.Scene, pose: Matrix, path) -> np.ndarray:
    cycles.settings(scene, 96, 64, 32)
    cycles.camera(scene, pose, panorama=False, fov=1.6)
    scene.view_layers[0].name = "ViewLayer"
    return cycles.combined(cycles.render(scene, path))


@pytest.mark.slow
def test_cycles_ground_truth_comes_back_in_place(scene, tmp_path):
    """A room rendered by Cycles, its maps as files, read and built: the surfaces are where they were, and the picture
    from another place is the picture of the true room from there."""
    cycles.room()
    for wall in scene.objects:  # lit only by the world, like the dome
        for ray in ("shadow", "diffuse", "glossy", "transmission"):
            setattr(wall, f"visible_{ray}", False)
    cycles.write_folder(tmp_path / "maps", cycles.ground_truth(scene, 256, tmp_path / "truth.exr"))
    moved = Matrix.Translation((-1, -0.8, 0.3)) @ Matrix.Rotation(0.4, 4, "Z")
    white_world(scene)
    truth = view(scene, moved, tmp_path / "a.exr")

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene = bpy.context.scene
    folder = maps_folder.read(tmp_path / "maps")
    assert set(folder.maps) == {"distance", "normal", "albedo", "roughness", "metallic"}
    pose = Matrix.Identity(4)
    dome = build(scene, folder.maps, None, "room", camera_height_m=cycles.HALF[2], world_from_panorama=pose).objects[0]

    hits = 0
    for x, y, z in sphere.directions(24, 48).reshape(-1, 3).tolist():
        found, place, _, _ = dome.ray_cast((0, 0, 0), (x, y, z))
        assert found
        ray = np.array([x, y, z])
        wall = ray * cycles.box_distance(ray)
        hits += np.linalg.norm(np.array(place) - wall) < 0.03
    assert hits > 0.8 * 24 * 48  # except the box in the corner, and edges

    white_world(scene)
    rebuilt = view(scene, moved, tmp_path / "b.exr")
    difference = np.abs(rebuilt - truth).max(axis=-1)
    assert truth.std() > 0.1
    assert np.median(difference) < 0.01
    assert (difference > 0.1).mean() < 0.12  # around edges


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["linear", "srgb"])
@pytest.mark.parametrize("yaw", [0.0, 1.2])
def test_a_panorama_camera_sees_the_input_again(scene, tmp_path, encoding, yaw):
    light = sky()
    shown = light if encoding == "linear" else srgb_from_linear(light / light.max())
    pose = Matrix.Rotation(yaw, 4, "Z")
    build(
        scene,
        {},
        images.create_float("shown", shown, "sRGB" if encoding == "srgb" else "Linear Rec.709"),
        "sky",
        world_from_panorama=pose,
    )
    cycles.settings(scene, 64, 32, 1, sharp=True)
    cycles.camera(scene, pose, panorama=True)
    scene.view_layers[0].name = "ViewLayer"
    seen = cycles.combined(cycles.render(scene, tmp_path / "sky.exr"))
    np.testing.assert_allclose(seen, light if encoding == "linear" else light / light.max(), atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_world_controls(scene, tmp_path):
    build(scene, {}, panorama(), "sky")
    nodes = scene.world.node_tree.nodes
    nodes["Strength"].inputs["Strength"].default_value = 3.0
    nodes["Rotation"].inputs["Rotation"].default_value[2] = -0.5
    cycles.settings(scene, 64, 32, 1, sharp=True)
    cycles.camera(scene, Matrix.Rotation(0.5, 4, "Z"), panorama=True)
    scene.view_layers[0].name = "ViewLayer"
    seen = cycles.combined(cycles.render(scene, tmp_path / "sky.exr"))
    np.testing.assert_allclose(seen, 3 * sky(), atol=0.1, rtol=0.02)


@pytest.mark.slow
def test_dome_transmits_light_and_receives_shadows(scene, tmp_path):
    maps = small_maps()
    maps["albedo"][:] = 0.5
    used, pose = {name: maps[name] for name in ("distance", "normal", "albedo")}, Matrix.Identity(4)
    build(scene, cycles.images_of(used), None, "room", camera_height_m=2.0, world_from_panorama=pose)
    white_world(scene)
    scene.cycles.max_bounces = 0  # the plate must cast a shadow but reflect no light
    down = Matrix.Rotation(1.2, 4, "Y")
    lit = view(scene, down, tmp_path / "a.exr")
    assert lit[40:60].min() > 0.15  # of 0.21, the linear albedo
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    scene.collection.objects.link(sun)
    sunny = view(scene, down, tmp_path / "b.exr")
    assert (sunny - lit)[40:60].min() > 0.05
    mesh = bpy.data.meshes.new("plate")
    mesh.from_pydata([(-9, -9, -0.1), (9, -9, -0.1), (9, 9, -0.1), (-9, 9, -0.1)], [], [(0, 1, 2, 3)])
    plate = bpy.data.objects.new("plate", mesh)
    plate.visible_camera = False
    scene.collection.objects.link(plate)
    shaded = view(scene, down, tmp_path / "c.exr")
    assert shaded[40:60].mean() < 0.7 * lit[40:60].mean()


@pytest.mark.slow
def test_everything_is_kept_on_save_and_reload(scene, tmp_path):
    maps = small_maps()
    build(scene, cycles.images_of(maps), panorama(), "hall")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "hall.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "hall.blend"))
    colorspaces = {
        "distance": "Non-Color", "normal": "Non-Color", "albedo": "sRGB", "roughness": "Non-Color",
        "metallic": "Non-Color", "semantic": "sRGB", "panorama": "Linear Rec.709",
    }  # fmt: skip
    assert {image.name for image in bpy.data.images if image.type == "IMAGE"} == {
        f"hall {kind}" for kind in colorspaces
    }
    for kind, colorspace in colorspaces.items():
        image = bpy.data.images[f"hall {kind}"]
        assert image.packed_file
        assert image.colorspace_settings.name == colorspace
        truth = sky() if kind == "panorama" else maps[kind]
        seen = pixels.read(image).pixels[..., : truth.shape[-1]]
        exact = kind in {"distance", "normal", "panorama"}
        # Half a step of the file, and another for Blender's conversion from sRGB to linear and back.
        tolerance = 0 if exact else 0.51 / 255 if kind == "semantic" else 1.5 / 65535
        np.testing.assert_allclose(seen, truth, atol=tolerance, rtol=0)
    scene = bpy.context.scene
    assert scene.world.name == "Panoform hall"
    assert bpy.data.collections["Panoform hall"].objects["hall dome"].modifiers["Panoform Dome"].node_group


def test_user_world_and_settings_are_kept(scene):
    white_world(scene)
    scene.render.resolution_x, scene.cycles.samples = 777, 7
    build(scene, cycles.images_of(small_maps()), panorama(), "hall")
    assert scene.world.name == "Panoform hall"
    assert bpy.data.worlds["white"].use_fake_user
    assert (scene.render.resolution_x, scene.cycles.samples, scene.camera) == (777, 7, None)
    assert list(scene.collection.objects) == []


def test_without_a_panorama_the_world_stays(scene):
    white_world(scene)
    build(scene, cycles.images_of(small_maps()), None, "hall")
    assert scene.world.name == "white"


def datablocks() -> int:
    kinds = (
        bpy.data.images,
        bpy.data.materials,
        bpy.data.meshes,
        bpy.data.node_groups,
        bpy.data.worlds,
        bpy.data.objects,
    )
    return sum(len(kind) for kind in (*kinds, bpy.data.collections))


def test_second_run_adds_datablocks(scene):
    maps = small_maps()
    first = build(scene, cycles.images_of(maps), panorama(), "hall")
    before, names = datablocks(), {image.name for image in bpy.data.images}
    second = build(scene, cycles.images_of(maps), panorama(), "hall")
    assert datablocks() == 2 * before
    assert names < {image.name for image in bpy.data.images}
    assert first.objects[0] != second.objects[0]
    assert first.objects[0].data.materials[0] != second.objects[0].data.materials[0]
    assert {child.name for child in scene.collection.children} == {first.name, second.name}


@pytest.mark.slow
def test_user_renames_and_deletions_are_kept(scene):
    maps = small_maps()
    first = build(scene, cycles.images_of(maps), panorama(), "hall")
    first.name, first.objects[0].name = "Mine", "My dome"
    kept = first.objects[0].modifiers[0].node_group
    kept.name = "My nodes"
    bpy.data.images.remove(bpy.data.images["hall roughness"])
    bpy.data.worlds.remove(scene.world)
    bpy.data.materials.remove(first.objects[0].data.materials[0])
    build(scene, cycles.images_of(maps), panorama(), "hall")
    assert bpy.data.collections["Mine"].objects["My dome"].modifiers[0].node_group == kept
    assert scene.world.name == "Panoform hall"
    assert len(scene.collection.children) == 2
    bpy.data.objects.remove(bpy.data.objects["hall dome"])
    bpy.data.collections.remove(bpy.data.collections["Panoform hall"])
    build(scene, cycles.images_of(maps), panorama(), "hall")
    assert "hall dome" in bpy.data.objects


@pytest.mark.slow
def test_a_pose_places_dome_and_world(scene):
    pose = Matrix.Translation((1, 2, 3)) @ Matrix.Rotation(0.5, 4, "Z")
    dome = build(scene, cycles.images_of(small_maps()), panorama(), "hall", world_from_panorama=pose).objects[0]
    np.testing.assert_allclose(np.array(dome.matrix_world), np.array(pose), atol=1e-6)
    assert scene.world.node_tree.nodes["Rotation"].inputs["Rotation"].default_value[2] == pytest.approx(-0.5)


@pytest.mark.slow
@pytest.mark.parametrize("height", [1.6, 0.4])
def test_default_pose_puts_the_floor_at_zero(scene, height):
    """The floor is at z = 0; a dome without distance is at the same height."""
    maps = small_maps()
    dome = build(scene, cycles.images_of(maps), None, "hall", camera_height_m=height).objects[0]
    bpy.context.view_layer.update()
    found, place, _, _ = dome.ray_cast((0, 0, 0), (0, 0, -1))
    assert found
    np.testing.assert_allclose(np.array(dome.matrix_world @ place), (0, 0, 0), atol=0.02 * height)
    del maps["distance"]
    sphere_only = build(scene, cycles.images_of(maps), None, "hall", camera_height_m=height).objects[0]
    np.testing.assert_allclose(np.array(sphere_only.matrix_world.translation), (0, 0, height), atol=1e-6)
