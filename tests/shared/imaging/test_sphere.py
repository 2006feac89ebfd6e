"""The frame of panoramas, checked with known directions and with integrals over the sphere."""

import numpy as np
import pytest

from panoform.shared.imaging import sphere


def ray_at(rays: np.ndarray, u: float, v: float) -> np.ndarray:
    height, width, _ = rays.shape
    return rays[int(v * height), int(u * width)]


@pytest.mark.parametrize(
    ("u", "v", "direction"),
    [
        (0.5, 0.5, (1, 0, 0)),
        (0.25, 0.5, (0, 1, 0)),
        (0.75, 0.5, (0, -1, 0)),
        (0.0, 0.5, (-1, 0, 0)),
        (0.999, 0.5, (-1, 0, 0)),
        (0.3, 0.0, (0, 0, 1)),
        (0.3, 0.999, (0, 0, -1)),
    ],
)
def test_directions_match_the_frame(u, v, direction):
    # The tolerance is one pixel in each of two angles.
    np.testing.assert_allclose(ray_at(sphere.directions(512, 1024), u, v), direction, atol=0.01)


def test_rays_pass_through_pixel_centres():
    # 2 × 4 pixels: latitudes ±45°, longitudes 135°, 45°, −45°, −135°.
    half = np.sqrt(0.5)
    expected = [[(-0.5, 0.5, z), (0.5, 0.5, z), (0.5, -0.5, z), (-0.5, -0.5, z)] for z in (half, -half)]
    np.testing.assert_allclose(sphere.directions(2, 4), expected, atol=1e-6)


def test_rays_have_unit_length_and_solid_angles_sum_to_a_sphere():
    rays, weights = sphere.directions(128, 256), sphere.solid_angles(128, 256)
    assert rays.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.broadcast_to(weights, (128, 256)).sum(dtype=np.float64), 4 * np.pi, rtol=1e-6)
    # ∫ r rᵀ dω = 4π/3 · I, ∫ r dω = 0
    flat = rays.reshape(-1, 3).astype(np.float64)
    weighted = flat * np.repeat(weights.astype(np.float64), 256, axis=1).reshape(-1, 1)
    np.testing.assert_allclose(flat.T @ weighted, np.eye(3) * 4 * np.pi / 3, atol=1e-3)
    np.testing.assert_allclose(weighted.sum(0), 0, atol=1e-4)


def test_yaw_matrix_rotates_x_towards_y():
    np.testing.assert_allclose(sphere.yaw_matrix(np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-6)
    rotation = sphere.yaw_matrix(0.3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_yaw_by_whole_columns_equals_a_roll():
    rays = sphere.directions(16, 32)
    turned = rays @ sphere.yaw_matrix(2 * np.pi * 5 / 32).T
    # Anticlockwise seen from above is to the left in the panorama.
    np.testing.assert_allclose(np.roll(rays, 5, axis=1), turned, atol=1e-6)
