"""The dome's mesh and its modifier."""

import math

import bpy
import numpy as np
import pytest
from cycles_truth import HALF, box_distance, images_of, set_input
from mathutils import Matrix, Vector

from panoform.blender_addon.scene import dome
from panoform.blender_addon.scene.build import build
from panoform.shared.imaging import sphere


def box_maps(height: int) -> dict[str, np.ndarray]:
    return {"distance": box_distance(sphere.directions(height, 2 * height)).astype(np.float32)}


def evaluated(body: bpy.types.Object) -> np.ndarray:
    mesh = body.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    positions = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", positions)
    return positions.reshape(-1, 3).astype(np.float64)


@pytest.fixture
def body(scene):
    return build(scene, images_of(box_maps(128)), None, "box", camera_height_m=2.0).objects[0]


def test_grid_is_closed_unmirrored_and_faces_inward():
    positions, uv, faces = dome.grid(16, 8)
    assert len(positions) == 17 * 9
    assert len(faces) == 16 * 8
    columns = positions.reshape(9, 17, 3)
    np.testing.assert_array_equal(columns[:, 0], columns[:, -1])  # the seam, twice
    assert (uv.reshape(9, 17, 2)[:, 0, 0] == 0).all()
    assert (uv.reshape(9, 17, 2)[:, -1, 0] == 1).all()
    np.testing.assert_array_equal(columns[0], np.broadcast_to((0, 0, 1), (17, 3)))
    np.testing.assert_array_equal(columns[-1], np.broadcast_to((0, 0, -1), (17, 3)))
    corners = positions[faces]
    outward = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    assert (np.einsum("ij,ij->i", outward, corners.mean(axis=1)) < 0).all()


def test_uvs_show_each_direction_its_own_pixel(scene, body):
    mesh = body.data
    height, width = 512, 1024
    rays = sphere.directions(height, width)
    checked = 0
    for loop in mesh.loops:
        u, v = mesh.uv_layers["UVMap"].uv[loop.index].vector
        if 0 < u < 1 and 0 < v < 1:
            pixel = rays[min(int((1 - v) * height), height - 1), min(int(u * width), width - 1)]
            assert np.dot(pixel, mesh.vertices[loop.vertex_index].co) > math.cos(2 * math.pi / height)
            checked += 1
    assert checked > 7000


@pytest.mark.slow
def test_vertices_lie_on_the_surface(body):
    positions = evaluated(body)
    radius = np.linalg.norm(positions, axis=-1)
    truth = box_distance(positions / radius[:, None])[:, 0]
    error = np.abs(radius - truth) / truth
    assert np.median(error) < 1e-3
    assert np.quantile(error, 0.99) < 0.01
    np.testing.assert_allclose(np.abs(positions).max(axis=0), HALF, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("detail", [0, 1, 4])
def test_detail_does_not_move_the_surface(body, detail):
    set_input(body, "Detail", detail)
    positions = evaluated(body)
    assert len(positions) == (64 * 2**detail + 1) * (32 * 2**detail + 1)
    radius = np.linalg.norm(positions, axis=-1)
    truth = box_distance(positions / radius[:, None])[:, 0]
    assert np.quantile(np.abs(radius - truth) / truth, 0.95) < 0.01


@pytest.mark.parametrize("levels", [1, 2])
def test_a_subdivision_modifier_before_it_changes_nothing_else(body, levels):
    subdivision = body.modifiers.new("Subdivision", "SUBSURF")
    subdivision.subdivision_type, subdivision.levels = "SIMPLE", levels
    body.modifiers.move(1, 0)
    set_input(body, "Detail", 0)
    positions = evaluated(body)
    assert len(positions) == (64 * 2**levels + 1) * (32 * 2**levels + 1)
    radius = np.linalg.norm(positions, axis=-1)
    truth = box_distance(positions / radius[:, None])[:, 0]
    assert np.quantile(np.abs(radius - truth) / truth, 0.95) < 0.01


@pytest.mark.slow
def test_scale_and_amount(body):
    full = np.linalg.norm(evaluated(body), axis=-1)
    set_input(body, "Scale", 3.0)
    np.testing.assert_allclose(np.linalg.norm(evaluated(body), axis=-1), 3 * full, rtol=1e-4)
    set_input(body, "Amount", 0.0)
    np.testing.assert_allclose(np.linalg.norm(evaluated(body), axis=-1), 3.0, rtol=1e-5)
    set_input(body, "Amount", 0.5)
    np.testing.assert_allclose(np.linalg.norm(evaluated(body), axis=-1), 1.5 + 1.5 * full, rtol=1e-4)


@pytest.mark.slow
def test_seam_and_poles_are_closed(scene):
    maps = box_maps(64)
    maps["distance"] *= 1 + np.random.default_rng(0).random(maps["distance"].shape, dtype=np.float32)
    body = build(scene, images_of(maps), None, "noise").objects[0]
    set_input(body, "Detail", 2)
    positions = evaluated(body)
    uv = body.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh().uv_layers[0].uv
    corners = np.array([corner.vector for corner in uv])
    mesh = body.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    places = positions[[loop.vertex_index for loop in mesh.loops]]

    def ordered(u: float) -> np.ndarray:
        rows = np.isclose(corners[:, 0], u)
        return places[rows][np.argsort(corners[rows, 1], kind="stable")]

    np.testing.assert_allclose(ordered(0.0), ordered(1.0), atol=1e-5)
    for v, axis in ((0.0, -1), (1.0, 1)):
        pole = places[np.isclose(corners[:, 1], v)]
        assert (np.abs(pole[:, :2]) < 1e-5).all()
        assert (np.sign(pole[:, 2]) == axis).all()


def test_zenith_does_not_bleed_into_the_nadir(scene):
    maps = {"distance": np.where(sphere.directions(64, 128)[..., 2:] > 0, 5.0, 2.0).astype(np.float32)}
    body = build(scene, images_of(maps), None, "step").objects[0]
    set_input(body, "Scale", 1.0)
    z = evaluated(body)[:, 2]
    assert z.min() == pytest.approx(-2.0, rel=1e-4)
    assert z.max() == pytest.approx(5.0, rel=1e-4)


def test_floor_is_camera_height_below():
    distance = box_distance(sphere.directions(128, 256)).astype(np.float32)
    assert dome.floor_depth(distance) == pytest.approx(HALF[2], rel=1e-4)
    distance[-8:] *= 0.3  # a tripod in the middle of the floor
    assert dome.floor_depth(distance) == pytest.approx(HALF[2], rel=1e-3)


@pytest.mark.parametrize("tilt_deg", [0.0, 7.0])
def test_floor_of_a_perceived_dome_lies_level_on_the_ground(scene, tilt_deg: float):
    """A box whose floor is tilted in the panorama, the floor's plane as Perceive tells it: in half metres."""
    tilt = Matrix.Rotation(math.radians(tilt_deg), 3, Vector((1, 2, 0)))  # panorama from world
    distance = box_distance(sphere.directions(64, 128) @ np.array(tilt)).astype(np.float32) * 2
    floor = (*(tilt @ Vector((0, 0, 1))), 2 * HALF[2])
    turn, found_deg = dome.levelled(Matrix.Identity(3), floor)
    assert found_deg == pytest.approx(tilt_deg, abs=1e-3)
    scale = 1.6 / dome.depth_below(turn, floor)
    assert scale * 2 * HALF[2] == pytest.approx(1.6, rel=1e-5)
    pose = Matrix.Translation((0, 0, 1.6)) @ turn.to_4x4()
    body = build(scene, images_of({"distance": distance}), None, "box", scale=scale, world_from_panorama=pose).objects[
        0
    ]
    world = evaluated(body) @ np.array(turn).T + (0, 0, 1.6)
    down = world[(world[:, 2] - 1.6) < -0.8 * np.linalg.norm(world[:, :2], axis=1)]
    assert np.abs(down[:, 2]).max() < 0.02


def test_without_distance_it_is_a_sphere(scene):
    maps = {"albedo": np.ones((8, 16, 3), np.float32)}
    body = build(scene, images_of(maps), None, "ball").objects[0]
    np.testing.assert_allclose(np.linalg.norm(evaluated(body), axis=-1), dome.SPHERE_RADIUS_M, rtol=1e-5)
