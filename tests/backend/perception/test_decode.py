"""Decoding pictures to maps, normals from distance, and yaw alignment."""

import numpy as np
import pytest

from panoform.backend.perception import decode
from panoform.shared.imaging import sphere
from panoform.shared.maps import MAPS

LOG = decode.Decode(distance=decode.DistanceDecode("log", 128.0))
LINEAR = decode.Decode()


def grey(value, height=8):
    return np.full((height, 2 * height, 3), value, np.float32)


@pytest.mark.parametrize("target", ["depth", "normal", "albedo", "pbr", "semantic"])
def test_maps_have_the_shapes_of_shared_maps(target):
    picture = np.random.default_rng(0).random((8, 16, 3)).astype(np.float32)
    for name, pixels in decode.decode(target, picture, LINEAR).items():
        assert pixels.shape == (8, 16, MAPS[name].channels)
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()


def test_distance_is_the_linear_mean_of_the_channels():
    picture = grey(0)
    picture[..., 0], picture[..., 1], picture[..., 2] = 0.2, 0.3, 0.7
    np.testing.assert_allclose(decode.decode("depth", picture, LINEAR)["distance"], 0.4, rtol=1e-6)


@pytest.mark.parametrize(("value", "distance"), [(1.0, 1.0), (0.0, 1 / 128), (0.5, 128**-0.5)])
def test_log_distance_is_decoded(value, distance):
    np.testing.assert_allclose(decode.decode("depth", grey(value), LOG)["distance"], distance, rtol=1e-5)


def test_distance_is_never_zero():
    assert (decode.decode("depth", grey(0), LINEAR)["distance"] == np.float32(decode.MIN_DISTANCE)).all()


@pytest.mark.parametrize(
    ("omnix", "blender"),
    [((1, 0, 0), (1, 0, 0)), ((0, 1, 0), (0, 0, 1)), ((0, 0, 1), (0, 1, 0)), ((0, 0, -1), (0, -1, 0))],
)
def test_normals_are_converted_to_blenders_axes_and_normalised(omnix, blender):
    picture = np.broadcast_to(0.5 + 0.45 * np.array(omnix), (8, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(
        decode.decode("normal", picture, LINEAR)["normal"], np.broadcast_to(blender, (8, 16, 3)), atol=1e-6
    )


def test_normal_without_direction_faces_the_camera():
    np.testing.assert_allclose(decode.decode("normal", grey(0.5), LINEAR)["normal"], -sphere.directions(8, 16))


def test_roughness_is_red_and_metallic_green():
    picture = grey(0.9)
    picture[..., 0], picture[..., 1] = 0.25, 0.75
    decoded = decode.decode("pbr", picture, LINEAR)
    assert (decoded["roughness"] == 0.25).all()
    assert (decoded["metallic"] == 0.75).all()


# Normals from distance


def box_room(height, half=(2.0, 1.0, 1.5)):
    """Return distance, normal and the normal's axis of a box seen from inside, with the camera off its centre."""
    rays = sphere.directions(height, 2 * height).astype(np.float64)
    offset = np.array([0.3, -0.2, 0.1])
    reach = (np.array(half) - np.sign(rays) * offset) / np.maximum(np.abs(rays), 1e-9)  # (H, W, 3)
    axis = reach.argmin(-1)
    normal = -np.sign(np.take_along_axis(rays, axis[..., None], -1)) * np.eye(3)[axis]
    return reach.min(-1)[..., None].astype(np.float32), normal.astype(np.float32), axis


def test_normals_of_a_sphere_face_the_camera():
    np.testing.assert_allclose(
        decode.normals_from_distance(np.full((32, 64, 1), 3.0)), -sphere.directions(32, 64), atol=1e-4
    )


def test_normals_of_a_box_room_match_its_walls():
    distance, normal, axis = box_room(64)
    flat = np.ones(axis.shape, bool)
    wall = axis * 2 + (normal.sum(-1) > 0)
    for shift in (-1, 1):
        flat &= np.roll(wall, shift, 1) == wall
    opposite = np.roll(wall, 64, 1)
    tall = np.concatenate([opposite[:1], wall, opposite[-1:]])
    flat &= (tall[2:] == wall) & (tall[:-2] == wall)
    assert flat.mean() > 0.8
    assert flat[:, [0, -1]].any()
    assert flat[[0, -1]].all()
    np.testing.assert_allclose(decode.normals_from_distance(distance)[flat], normal[flat], atol=1e-4)


def test_normals_rotate_with_the_panorama():
    distance = box_room(32)[0]
    quarter = decode.normals_from_distance(np.roll(distance, -16, axis=1))
    turned = np.roll(decode.normals_from_distance(distance), -16, axis=1) @ sphere.yaw_matrix(np.pi / 2).T
    np.testing.assert_allclose(quarter, turned, atol=1e-5)


@pytest.mark.parametrize("yaw_deg", [0, 12.5, 47, -90, 133, 180])
def test_wrong_yaw_is_estimated_and_corrected(yaw_deg):
    distance, normal, _ = box_room(64)
    rng = np.random.default_rng(0)
    noisy = normal + rng.normal(0, 0.15, normal.shape)
    noisy[20:40, 10:40] = rng.normal(0, 1, (20, 30, 3))  # unrelated normals, as of clutter
    wrong = (noisy / np.linalg.norm(noisy, axis=-1, keepdims=True)) @ sphere.yaw_matrix(np.radians(yaw_deg)).T
    turned, found = decode.realign_yaw(wrong.astype(np.float32), distance)
    assert abs((found + yaw_deg + 180) % 360 - 180) < 1.5
    angle = np.degrees(np.arccos((turned * normal).sum(-1).clip(-1, 1)))
    assert np.median(angle) < 15


def test_vertical_normals_are_not_rotated():
    up = np.zeros((16, 32, 3), np.float32)
    up[..., 2] = 1
    turned, found = decode.realign_yaw(up, np.ones((16, 32, 1), np.float32))
    assert found == 0
    np.testing.assert_array_equal(turned, up)
