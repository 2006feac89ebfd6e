"""Cycles renders of a grey sphere and its shadow, under the true HDRI, the reconstructed and the plain one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy", reason="rendering needs bpy")

from panoform.backend.lighting import inverse_tonemapping
from panoform.shared.imaging.colour import linear_from_srgb
from panoform.shared.imaging.sphere import directions
from panoform.shared.imaging.sun import split_sun

pytestmark = pytest.mark.slow

_SPEC = importlib.util.spec_from_file_location("lit_scene", Path(__file__).parents[3] / "bench" / "lit_scene.py")
lit_scene = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lit_scene)


def halved(panorama: np.ndarray) -> np.ndarray:
    """Halve height and width; the total light is unchanged."""
    height, width = panorama.shape[:2]
    return panorama.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))


@pytest.mark.parametrize("name", ["city", "sunrise"])
def test_render_under_reconstructed_light_is_closer_to_the_truth(name: str) -> None:
    path = next(path for path in lit_scene.bundled() if path.stem == name)
    light, picture = lit_scene.clipped(lit_scene.load(path), share=0.03)
    true, reconstructed, plain = (
        lit_scene.render(halved(panorama), size=32, samples=64)
        for panorama in (light, inverse_tonemapping.reconstruct(picture), linear_from_srgb(picture))
    )
    assert lit_scene.difference(true, reconstructed) < 0.75 * lit_scene.difference(true, plain)
    shading_true, shading_reconstructed, shading_plain = (
        lit_scene.measure(image) for image in (true, reconstructed, plain)
    )
    assert lit_scene.shadow_angle(shading_true, shading_reconstructed) < 10
    # The depth of the shadow is closer to the true one than under the plain picture.
    assert abs(shading_reconstructed.depth - shading_true.depth) < 0.8 * abs(shading_plain.depth - shading_true.depth)


def test_sun_lamp_and_remainder_give_the_same_render() -> None:
    rays = directions(128, 256).astype(np.float64)
    toward = np.array([0.5, -0.4, 0.77])
    toward /= np.linalg.norm(toward)
    sky = np.where(rays[..., 2:] > 0, [0.3, 0.4, 0.6], 0.1) + np.where(rays @ toward > np.cos(np.radians(3)), 200, 0)[
        ..., None
    ] * np.array([1, 0.8, 0.6])
    rest, sun = split_sun(sky.astype(np.float32))
    assert sun is not None
    whole, split, without = (
        lit_scene.render(*panorama) for panorama in ((sky, 32, 128), (rest, 32, 128, sun), (rest, 32, 128))
    )
    assert lit_scene.difference(whole, split) < 0.05
    assert lit_scene.difference(whole, without) > 0.2
    assert lit_scene.shadow_angle(lit_scene.measure(whole), lit_scene.measure(split)) < 3
    shadow = -toward[:2] / np.linalg.norm(toward[:2])
    assert lit_scene.measure(split).shadow @ shadow > np.cos(np.radians(10))
    np.testing.assert_allclose(split.mean((0, 1)), whole.mean((0, 1)), rtol=0.03)
