"""Light that arrives at surfaces, against closed forms."""

from __future__ import annotations

import numpy as np

from panoform.backend.lighting.transport import DistanceTable, Sources, arriving
from panoform.shared.imaging.sphere import directions

HEIGHT_M = 1.6


def one(ray: list[float], distance: float, normal: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Sources:
    return Sources(np.array([ray]) / np.linalg.norm(ray), np.array([distance]), np.array([normal]))


def ground(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return points of a floor under the camera, and their normals."""
    points = np.random.default_rng(0).uniform(-4, 4, (count, 3))
    points[:, 2] = -HEIGHT_M
    return points, np.tile([0.0, 0, 1], (count, 1))


def test_light_from_far_away_arrives_by_the_cosine() -> None:
    points, normals = ground()
    arrived = arriving(points, normals, one([0.6, 0, 0.8], np.inf), None)
    np.testing.assert_allclose(arrived, 0.8, rtol=1e-5)


def test_a_near_lamp_lights_by_the_square_of_its_distance() -> None:
    points, normals = ground()
    lamp = np.array([1.0, 2.0, 1.2])
    distance = float(np.linalg.norm(lamp))
    towards = lamp - points
    length = np.linalg.norm(towards, axis=-1)
    expected = distance**2 / length**2 * towards[:, 2] / length  # it gives the camera, which faces it, 1
    arrived = arriving(points, normals, one(lamp.tolist(), distance), None)[:, 0]
    np.testing.assert_allclose(arrived, expected, rtol=1e-4)


def test_a_panel_shines_by_the_cosine_of_its_own_normal() -> None:
    points, normals = ground()
    panel = np.array([0.0, 0.0, 2.0])  # straight above the camera, facing down
    towards = panel - points
    length = np.linalg.norm(towards, axis=-1)
    expected = 4 / length**2 * (towards[:, 2] / length) ** 2
    arrived = arriving(points, normals, one([0, 0, 1], 2.0, (0.0, 0.0, -1.0)), None)[:, 0]
    np.testing.assert_allclose(arrived, expected, rtol=1e-4)


def test_a_sphere_casts_its_shadow_on_the_ground() -> None:
    """A ball of 0.5 m, 3 m in front of the camera; the sun stands at its left, so that the camera sees the shadow."""
    rays = directions(256, 512).astype(np.float64)
    centre, radius = np.array([3.0, 0.0, -1.0]), 0.5
    down = rays[..., 2] < -1e-3
    distance = np.where(down, -HEIGHT_M / np.where(down, rays[..., 2], -1), np.inf)
    along = rays @ centre
    under = along**2 - centre @ centre + radius**2
    hit = (under > 0) & (along > 0)
    distance[hit] = (along - np.sqrt(np.maximum(under, 0)))[hit]
    sun = np.array([0.0, 0.7, 0.7]) / np.linalg.norm([0.7, 0.7])

    points, normals = ground(4000)
    away = points - centre
    missed = np.linalg.norm(away - (away @ sun)[:, None] * sun, axis=-1)
    seen = np.abs(points[:, 0]) > 0.3  # near the camera, directions change fast
    lit = arriving(points, normals, one(sun.tolist(), np.inf), DistanceTable(distance))[:, 0] > 0
    in_shadow, outside = seen & (missed < 0.3), seen & (missed > 0.8)
    assert in_shadow.sum() > 10
    assert lit[in_shadow].mean() < 0.15
    assert lit[outside].mean() > 0.99


def test_a_skylight_lights_only_what_is_below_it() -> None:
    """A ceiling as high above the camera as the floor is below, with a round hole of 1 m radius."""
    rays = directions(256, 512).astype(np.float64)
    up = np.abs(rays[..., 2]) > 1e-3
    distance = np.where(up, HEIGHT_M / np.where(up, np.abs(rays[..., 2]), 1), np.inf)
    across = np.hypot(rays[..., 0], rays[..., 1]) * distance
    distance = np.where((rays[..., 2] > 0) & (across < 1), np.inf, distance)
    points, normals = ground(2000)
    lit = arriving(points, normals, one([0, 0, 1], np.inf), DistanceTable(distance))[:, 0] > 0
    from_axis = np.hypot(points[:, 0], points[:, 1])
    assert lit[from_axis < 0.9].all()
    assert lit[from_axis > 1.3].mean() < 0.2
