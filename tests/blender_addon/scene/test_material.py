"""The material against Lambert's law, Cycles' own passes, and the geometry it displaces."""

import math

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from mathutils import Matrix, Vector

from panoform.blender_addon.scene import material
from panoform.blender_addon.scene.build import build
from panoform.shared.imaging import sphere

AXES = {"+X": (1, 0, 0), "-X": (-1, 0, 0), "+Y": (0, 1, 0), "-Y": (0, -1, 0), "+Z": (0, 0, 1), "-Z": (0, 0, -1)}


@pytest.fixture(scope="module")
def room_maps(tmp_path_factory):
    """Ground truth of the room, rendered before the test's own scene."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    cycles.room()
    return cycles.ground_truth(bpy.context.scene, 128, tmp_path_factory.mktemp("room") / "truth.exr")


def away_from_edges(distance: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: pixels whose neighbourhood is smooth."""
    log = np.log(distance[..., 0])
    step = np.zeros_like(log)
    for axis in (0, 1):
        for shift in (-1, 1):
            step = np.maximum(step, np.abs(log - np.roll(log, shift, axis)))
    return step < 0.06


def matte(body: bpy.types.Object) -> None:
    """Remove the specular component, leaving Lambert."""
    nodes = body.data.materials[0].node_tree.nodes
    principled = next(node for node in nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    principled.inputs["Specular IOR Level"].default_value = 0


def relit(scene: bpy.types.Scene, towards_light: Vector, path, width: int) -> np.ndarray:
    """Render a panorama from the origin under one sun of irradiance π, (H, W) linear."""
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = math.pi, 0
    lamp = bpy.data.objects.new("sun", sun)
    lamp.matrix_world = towards_light.to_track_quat("Z", "Y").to_matrix().to_4x4()
    scene.collection.objects.link(lamp)
    cycles.settings(scene, width, width // 2, 1, sharp=True)
    cycles.camera(scene, Matrix.Identity(4), panorama=True)
    scene.view_layers[0].name = "ViewLayer"
    picture = cycles.combined(cycles.render(scene, path))
    bpy.data.lights.remove(sun)
    return picture[..., 0]


@pytest.mark.slow
@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_a_sun_from_six_sides_gives_lambert(room_maps, scene, tmp_path, yaw):
    """`yaw` rotates the dome with its normals, so that a sun rotated by it gives the same image."""
    maps = {name: room_maps[name] for name in ("distance", "normal")}
    maps["albedo"] = np.ones((64, 128, 3), np.float32)
    body = build(scene, cycles.images_of(maps), None, "room", camera_height_m=2.0).objects[0]
    matte(body)
    turn = Matrix.Rotation(yaw, 4, "Z")
    body.matrix_world = turn
    inside = away_from_edges(room_maps["distance"])
    assert inside.mean() > 0.5
    for side, light in AXES.items():
        picture = relit(scene, turn.to_3x3() @ Vector(light), tmp_path / "relit.exr", 128)
        if yaw:
            picture = shifted(picture, yaw)
        truth = np.clip(room_maps["normal"] @ np.array(light), 0, None)
        error = np.abs(picture - truth)[inside]
        assert np.median(error) < 0.005, side
        assert np.quantile(error, 0.97) < 0.03, side
        assert truth[inside].max() > 0.99, side


def shifted(picture: np.ndarray, yaw: float) -> np.ndarray:
    """Rotate a panorama by -`yaw`: longitude lon + yaw moves to lon."""
    _, width = picture.shape
    at = (np.arange(width) - yaw / (2 * math.pi) * width) % width
    low = np.floor(at).astype(int)
    share = at - low
    return picture[:, low % width] * (1 - share) + picture[:, (low + 1) % width] * share


@pytest.mark.slow
def test_normal_map_overrides_the_geometry(scene, tmp_path):
    """Tilted normals on a sphere: shading follows the map."""
    rays = sphere.directions(32, 64)
    tilted = -rays + 0.4 * np.cross(rays, np.array([0.3, -0.5, 0.8]))
    normals = (tilted / np.linalg.norm(tilted, axis=-1, keepdims=True)).astype(np.float32)
    body = build(
        scene,
        cycles.images_of({"normal": normals, "albedo": np.ones((32, 64, 3), np.float32)}),
        None,
        "ball",
        world_from_panorama=Matrix.Identity(4),
    ).objects[0]
    matte(body)
    for light in AXES.values():
        picture = relit(scene, Vector(light), tmp_path / "relit.exr", 64)
        truth = np.clip(normals @ np.array(light, np.float32), 0, None)
        # At grazing angles of the sun, Cycles darkens normals that deviate from the geometry.
        facing = (-rays @ np.array(light, np.float32)) > 0.3
        error = np.abs(picture - truth)[facing]
        assert np.median(error) < 0.002
        assert error.max() < 0.05


@pytest.mark.slow
def test_albedo_roughness_and_metallic_are_exact(scene, tmp_path):
    """The inputs of the Principled BSDF, read by AOVs."""
    rng = np.random.default_rng(0)
    maps = {
        "albedo": rng.random((16, 32, 3), dtype=np.float32),
        "roughness": rng.random((16, 32, 1), dtype=np.float32),
        "metallic": rng.random((16, 32, 1), dtype=np.float32),
    }
    body = build(scene, cycles.images_of(maps), None, "noise", world_from_panorama=Matrix.Identity(4)).objects[0]
    tree = body.data.materials[0].node_tree
    principled = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    layer = scene.view_layers[0]
    layer.name = "ViewLayer"
    for name, socket in (("albedo", "Base Color"), ("roughness", "Roughness"), ("metallic", "Metallic")):
        aov = layer.aovs.add()
        aov.name, aov.type = name, "COLOR"
        node = tree.nodes.new("ShaderNodeOutputAOV")
        node.aov_name = name
        tree.links.new(principled.inputs[socket].links[0].from_socket, node.inputs["Color"])
    cycles.settings(scene, 32, 16, 1, sharp=True)
    cycles.camera(scene, Matrix.Identity(4), panorama=True)
    channels = cycles.render(scene, tmp_path / "aov.exr")
    for name, array in maps.items():
        seen = np.stack([channels[f"ViewLayer.{name}.{c}"] for c in "RGB"], axis=-1)
        truth = (
            np.where(array <= 0.04045, array / 12.92, ((array + 0.055) / 1.055) ** 2.4) if name == "albedo" else array
        )
        error = np.abs(seen - truth)
        assert np.quantile(error, 0.95) < 0.01, name  # rays nearly through pixel centres
        assert error.max() < 0.05, name


def test_missing_maps_leave_the_defaults(scene):
    body = build(
        scene,
        cycles.images_of({"albedo": np.ones((8, 16, 3), np.float32)}),
        None,
        "plain",
        world_from_panorama=Matrix.Identity(4),
    ).objects[0]
    tree = body.data.materials[0].node_tree
    principled = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    assert principled.inputs["Base Color"].is_linked
    for name in ("Roughness", "Metallic", "Normal"):
        assert not principled.inputs[name].is_linked
    output = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeOutputMaterial")
    assert not output.inputs["Displacement"].is_linked


WIDTH = 100  # no pixel centre hits a vertex, where Cycles may miss the surface


def wavy(height: int, width: int) -> np.ndarray:
    """Return a wall with waves finer than the coarse grid, (height, width) metres."""
    u, v = (np.arange(width) + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
    return (2 + 0.3 * np.sin(40 * 2 * math.pi * u) * np.sin(math.pi * v) ** 2).astype(np.float32)


def seen_distance(scene: bpy.types.Scene, path) -> np.ndarray:
    cycles.settings(scene, WIDTH, WIDTH // 2, 1, sharp=True)
    cycles.camera(scene, Matrix.Identity(4), panorama=True)
    layer = scene.view_layers[0]
    layer.name = "ViewLayer"
    layer.use_pass_z = True
    return cycles.render(scene, path)["ViewLayer.Depth.Z"]


def wavy_body(scene: bpy.types.Scene) -> bpy.types.Object:
    body = build(
        scene,
        cycles.images_of({"distance": wavy(256, 512)[..., None]}),
        None,
        "waves",
        world_from_panorama=Matrix.Identity(4),
    ).objects[0]
    cycles.set_input(body, "Scale", 1.0)
    return body


@pytest.mark.slow
def test_displacement_is_not_applied_twice(scene, tmp_path):
    body = wavy_body(scene)
    with_displacement = seen_distance(scene, tmp_path / "a.exr")
    np.testing.assert_allclose(with_displacement, wavy(WIDTH // 2, WIDTH), rtol=0.02)
    tree = body.data.materials[0].node_tree
    output = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeOutputMaterial")
    tree.links.remove(output.inputs["Displacement"].links[0])
    without = seen_distance(scene, tmp_path / "b.exr")
    np.testing.assert_allclose(with_displacement, without, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_displacement_adds_missing_detail(scene, tmp_path, scale):
    """A coarse dome, subdivided after its modifier: displacement moves the new vertices to the map."""
    body = wavy_body(scene)
    cycles.set_input(body, "Scale", scale)
    cycles.set_input(body, "Detail", 0)
    truth = scale * wavy(WIDTH // 2, WIDTH)
    coarse = np.abs(seen_distance(scene, tmp_path / "a.exr") - truth)
    subdivision = body.modifiers.new("Subdivision", "SUBSURF")
    subdivision.subdivision_type, subdivision.levels, subdivision.render_levels = "SIMPLE", 3, 3
    fine = np.abs(seen_distance(scene, tmp_path / "b.exr") - truth)
    assert np.quantile(coarse, 0.9) > 0.2 * scale
    assert np.quantile(fine, 0.9) < 0.02 * scale


def test_without_its_modifier_the_sphere_stays_a_sphere(scene, tmp_path):
    body = wavy_body(scene)
    body.modifiers.clear()
    np.testing.assert_allclose(seen_distance(scene, tmp_path / "a.exr"), 1.0, atol=0.02)


def test_confidence_is_the_strength_of_the_normal_map(scene) -> None:
    maps = cycles.images_of({"normal": np.full((8, 16, 3), 0.5, np.float32)})
    maps["confidence"] = maps["normal"]
    tree = material.create_one_sided("wall", maps).node_tree
    (normal,) = (node for node in tree.nodes if node.bl_idname == "ShaderNodeNormalMap")
    assert normal.inputs["Strength"].links[0].from_node.label == "Confidence"
    plain = material.create_one_sided("wall", {"normal": maps["normal"]}).node_tree
    (normal,) = (node for node in plain.nodes if node.bl_idname == "ShaderNodeNormalMap")
    assert normal.inputs["Strength"].default_value == 1
