"""Normals that are turned as a whole are turned back; where they are wrong, their confidence is low."""

from __future__ import annotations

import analytic_room as room
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from panoform.backend.scene import build, normals
from panoform.shared.imaging import sphere

HEIGHT = 128
EXACT = room.maps(HEIGHT)
SOLID = np.isfinite(EXACT.distance)
TURN = Rotation.from_rotvec(np.radians(6) * np.array([0.6, -0.48, 0.64])).as_matrix()


@pytest.mark.parametrize("height", [32, HEIGHT])
def test_normals_of_distances(height: int) -> None:
    exact = room.maps(height, furnished=False, window=False)
    normal, residual = normals.of_distance(exact.distance, np.ones(exact.distance.shape, bool))
    flat = residual < 1e-4
    assert flat.mean() > (0.3 if height == 32 else 0.6)
    np.testing.assert_allclose(normal[flat], exact.normal[flat], atol=0.01)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("wrong", [0.0, 0.25])
def test_normals_turned_as_a_whole(soft: bool, wrong: float) -> None:
    """A quarter of the panorama, with other normals, doesn't matter."""
    hit = room.soften(EXACT) if soft else EXACT
    turned = hit.normal @ TURN.T
    turned[:, : round(2 * HEIGHT * wrong)] = Rotation.from_euler("x", 50, True).apply([0, 0.6, 0.8])
    found = normals.turn(hit.distance, turned, SOLID)
    assert found is not None
    assert np.degrees(Rotation.from_matrix(found @ TURN).magnitude()) < (0.5 if soft else 0.1)


@pytest.mark.parametrize("soft", [False, True])
def test_right_normals_are_not_turned(soft: bool) -> None:
    hit = room.soften(EXACT) if soft else EXACT
    assert normals.turn(hit.distance, hit.normal, SOLID) is None


def test_one_plane_does_not_tell_a_turn() -> None:
    """Under the open sky, a turn about the vertical axis can't be seen."""
    rays = sphere.directions(HEIGHT, 2 * HEIGHT)
    solid = rays[..., 2] < -0.05
    distance = np.where(solid, -1.6 / np.minimum(rays[..., 2], -0.05), np.inf)
    normal = np.where(solid[..., None], TURN @ (0, 0, 1), 0)
    assert normals.turn(distance, normal, solid) is None


@pytest.mark.slow
def test_confidence_of_right_and_wrong_normals() -> None:
    """A part of the wall at −X has normals that are turned by 10° and 40°."""
    rays = sphere.directions(HEIGHT, 2 * HEIGHT)
    columns = np.arange(2 * HEIGHT)
    normal = EXACT.normal.astype(np.float32)
    built = build.build(EXACT.distance, EXACT.normal, max_triangles=5000)
    wall = (EXACT.normal[..., 0] > 0.99) & (np.abs(rays[..., 2]) < 0.3)
    assert normals.confidence(normal, built.planes)[SOLID].mean() > 0.995
    for angle in (10, 40):
        wrong = wall & (columns < HEIGHT // 4)
        given = normal.copy()
        given[wrong] = Rotation.from_euler("z", angle, True).apply([1, 0, 0])
        built = build.build(EXACT.distance, given, max_triangles=5000)
        found = normals.confidence(given, built.planes)
        cosine = np.cos(np.radians((angle, 60, 20)))
        expected = np.clip((cosine[0] - cosine[1]) / (cosine[2] - cosine[1]), 0, 1)
        inside = wrong & np.roll(wrong, 3, 1) & np.roll(wrong, -3, 1) & np.roll(wrong, 3, 0) & np.roll(wrong, -3, 0)
        assert inside.sum() > 100
        np.testing.assert_allclose(np.median(found[inside]), expected, atol=0.02)
        assert found[~wrong].mean() > 0.99
