"""Rendered ground truth: positions, units, axes and atomic writing."""

import numpy as np
import pytest

pytest.importorskip("bpy", reason="rendering needs bpy")

from panoform.backend.evaluation import ground_truth
from panoform.backend.training.scenes import build, catalogue, cell, materials, render, second, sky
from panoform.shared.imaging import sphere

HEIGHT = 32


def marked_room(rng) -> float:
    """Build a floor 1.5 m below the camera, a red wall at 2 m in +X, a green metal one at 3 m in +Y, and a sky."""
    sky.sky(rng)
    b = build.Builder(rng)
    b.box((0, 0, -0.5), (100, 100, 1), materials.Graph("grey").finish((0.5, 0.5, 0.5), 0.75, 0.0), "floor")
    b.box((2.5, 0, 1.5), (1, 1.5, 3), materials.Graph("red").finish((0.6, 0.0, 0.0), 0.25, 0.0), "wall")
    b.box((0, 3.5, 1.5), (1.5, 1, 3), materials.Graph("green").finish((0.0, 0.6, 0.0), 0.5, 1.0), "door")
    return 1.5


@pytest.mark.slow
def test_ground_truth_of_a_known_room(tmp_path):
    assert render.render_scene(tmp_path, marked_room, 7, HEIGHT, 1)
    (scene,) = ground_truth.scenes(tmp_path, HEIGHT)
    maps = ground_truth.read_scene(scene)
    row, ahead, left = HEIGHT // 2, HEIGHT, HEIGHT // 2
    assert maps["distance"][row, ahead, 0] == pytest.approx(2, rel=0.02)
    assert maps["distance"][row, left, 0] == pytest.approx(3, rel=0.02)
    np.testing.assert_allclose(maps["normal"][row, ahead], [-1, 0, 0], atol=0.01)
    np.testing.assert_allclose(maps["normal"][row, left], [0, -1, 0], atol=0.01)
    red, green = maps["albedo"][row, ahead], maps["albedo"][row, left]
    assert red[0] == pytest.approx(0.797, abs=0.01)  # 0.6 linear in sRGB
    assert green[1] == pytest.approx(0.797, abs=0.01)
    assert maps["roughness"][row, ahead, 0] == pytest.approx(0.25, abs=0.01)
    assert maps["metallic"][row, [ahead, left], 0] == pytest.approx([0, 1], abs=0.01)
    assert tuple(np.rint(maps["semantic"][row, left] * 255).astype(int)) == build.PALETTE["door"]
    assert np.isinf(maps["distance"][2]).all()
    assert (maps["normal"][2] == 0).all()
    # All floor pixels are 1.5 m below the camera.
    down = -sphere.directions(HEIGHT, 2 * HEIGHT)[-6:, :, 2]
    np.testing.assert_allclose(maps["distance"][-6:, :, 0] * down, 1.5, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("generate", [catalogue.build, second.build])
def test_seed_determines_the_scene_and_existing_ones_are_skipped(generate, tmp_path):
    for folder in ("a", "b"):
        assert render.render_scene(tmp_path / folder, generate, 3, 16, 1)
    assert not render.render_scene(tmp_path / "a", generate, 3, 16, 1)
    one, two = (ground_truth.read_scene(ground_truth.scenes(tmp_path / folder)[0]) for folder in ("a", "b"))
    for name in ("distance", "normal", "albedo", "semantic"):
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("seed", range(20))
def test_cell_is_closed_around_the_camera(seed):
    faces = cell._faces(cell._half_spaces(np.random.default_rng(seed), 1.5), 1.5)
    areas = []
    for corners, normal in faces:
        following = np.roll(corners, -1, axis=0)
        area = np.cross(corners, following).sum(0) / 2
        np.testing.assert_allclose(np.abs(area @ normal), np.linalg.norm(area), rtol=1e-6)
        areas.append(area * np.sign(area @ normal))
        assert ((corners - [0, 0, 1.5]) @ normal >= 0.4 - 1e-9).all()
    # The area vectors of a closed surface sum to zero.
    np.testing.assert_allclose(np.sum(areas, 0), 0, atol=1e-6 * np.abs(areas).max())


def test_a_failed_render_leaves_no_files(tmp_path):
    def broken(rng) -> float:
        raise RuntimeError("no scene")

    with pytest.raises(RuntimeError, match="no scene"):
        render.render_scene(tmp_path, broken, 1, HEIGHT, 1)
    assert list(tmp_path.iterdir()) == []
