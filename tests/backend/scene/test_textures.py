"""Textures made sharper by the panorama, against the true maps of scenes rendered by Cycles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from panoform.backend.evaluation import ground_truth
from panoform.backend.io.panoramas import resize
from panoform.backend.lighting import exposure
from panoform.backend.scene import guided, textures
from panoform.backend.scene.layers import Layer

SCENES = Path(__file__).parents[2] / "scenes"


def detail(pixels: np.ndarray) -> np.ndarray:
    return pixels - ndimage.gaussian_filter(pixels, (2, 2, 0))


@pytest.mark.parametrize("scene", ["room", "second-arcade", "second-hall", "street"])
def test_sharpened_albedo_is_nearer_to_the_truth_than_an_enlarged_one(scene: str) -> None:
    truth = ground_truth.read_scene(SCENES / scene)
    albedo = truth["albedo"]
    picture, _ = exposure.expose(np.maximum(truth["panorama"], 0), "linear")
    height = len(albedo)
    small = resize(albedo, height // 2)
    sharp = textures.sharpen(small, picture)
    smooth = textures.enlarge(small, height, slice(0, height))
    solid = np.isfinite(truth["distance"][..., 0])

    def correlation(pixels: np.ndarray) -> float:
        return float(np.corrcoef(detail(pixels)[solid].ravel(), detail(albedo)[solid].ravel())[0, 1])

    assert correlation(sharp) > correlation(smooth) + 0.03
    assert ((sharp - albedo)[solid] ** 2).mean() < 0.7 * ((smooth - albedo)[solid] ** 2).mean()


def test_constant_map_stays_constant() -> None:
    picture = np.random.default_rng(0).random((64, 128, 3), np.float32)
    sharp = textures.sharpen(np.full((16, 32, 1), 0.3, np.float32), picture)
    np.testing.assert_allclose(sharp, 0.3, atol=1e-5)


def test_seam_and_sizes() -> None:
    small = np.random.default_rng(0).random((16, 32, 3), np.float32)
    large = textures.enlarge(small, 64, slice(0, 64))
    np.testing.assert_allclose(
        np.roll(large, 4, axis=1), textures.enlarge(np.roll(small, 1, axis=1), 64, slice(0, 64)), atol=1e-6
    )
    assert textures.sharpen(small, np.zeros((8, 16, 3), np.float32)).shape == (8, 16, 3)


def test_hidden_pixels_have_the_colour_of_what_they_continue() -> None:
    pixels = np.zeros((16, 32, 3), np.float32)
    pixels[:, :16] = (0.2, 0.5, 0.7)
    solid = np.zeros((16, 32), bool)
    solid[4:8, 16:20] = True
    source = np.full((16, 32), 5 * 32 + 10)  # on the coloured side
    layer = Layer(np.zeros((16, 32, 3)), np.zeros((16, 32)), np.ones((16, 32)), solid, source)
    filled = textures.continued(pixels, layer)
    np.testing.assert_allclose(filled, np.broadcast_to((0.2, 0.5, 0.7), filled.shape), atol=1e-5)


@pytest.mark.slow
def test_blurred_map_becomes_as_sharp_as_the_panorama() -> None:
    """Patches of a few colours, of which a model gives a map that is more blurred than its size."""
    rng = np.random.default_rng(0)
    palette = rng.uniform(0.1, 0.8, (6, 3))
    albedo = palette[rng.integers(0, 6, (32, 64))].repeat(16, 0).repeat(16, 1).astype(np.float32)
    picture = (albedo * 0.9 + rng.uniform(-0.02, 0.02, albedo.shape)).astype(np.float32)
    small = resize(albedo, 256)
    blurred = ndimage.gaussian_filter(small, (2, 2, 0), mode=("nearest", "wrap", "nearest"))

    def error(pixels: np.ndarray) -> float:
        return float(((pixels - albedo) ** 2).mean())

    assert error(textures.sharpen(blurred, picture)) < 0.4 * error(resize(blurred, 512))
    assert error(textures.sharpen(small, picture)) < 0.3 * error(resize(small, 512))


def _step(height: int) -> np.ndarray:
    """Two surfaces, the nearer of which, with a circular outline, is of another colour: (H, 2·H, 3)."""
    y, x = np.mgrid[:height, : 2 * height] + 0.5
    inside = np.hypot(y / height - 0.5, x / height - 1) < 0.27
    return np.where(inside[..., None], (0.75, 0.6, 0.5), (0.2, 0.3, 0.45)).astype(np.float32)


@pytest.mark.slow
def test_edge_has_no_halo() -> None:
    """Also where the light changes at the edge: each side is fitted by itself."""
    albedo = _step(256)
    inside = albedo[..., :1] > 0.5
    picture = (albedo * np.where(inside, 0.5, 1.2)).astype(np.float32)
    sharp = textures.sharpen(resize(albedo, 64), picture)
    smooth = textures.enlarge(resize(albedo, 64), 256, slice(0, 256))
    beyond = np.maximum(sharp - albedo.max((0, 1)), albedo.min((0, 1)) - sharp).max(-1)
    assert beyond.max() < 0.1 * 0.55  # of the step
    assert (beyond > 0.005).mean() < 0.004  # a third of the outline's pixels
    assert ((sharp - albedo) ** 2).mean() < 0.01 * ((smooth - albedo) ** 2).mean()
    far = ndimage.binary_dilation(inside[..., 0], iterations=6) == ndimage.binary_erosion(inside[..., 0], iterations=6)
    np.testing.assert_allclose(sharp[far], albedo[far], atol=0.01)


@pytest.mark.slow
def test_texture_too_fine_for_the_map_comes_from_the_panorama_and_shading_does_not() -> None:
    rng = np.random.default_rng(0)
    fine = rng.uniform(0.6, 1.0, (256, 512, 1))
    albedo = (_step(256) * fine).astype(np.float32)
    shading = 0.9 + 0.1 * np.sin(np.arange(512) / 512 * 6 * np.pi)[None, :, None]
    picture = (albedo * shading).astype(np.float32)
    small = resize(albedo, 64)
    sharp, smooth = textures.sharpen(small, picture), textures.enlarge(small, 256, slice(0, 256))
    assert ((sharp - albedo) ** 2).mean() < 0.03 * ((smooth - albedo) ** 2).mean()
    assert np.corrcoef(detail(sharp).ravel(), detail(albedo).ravel())[0, 1] > 0.98


def test_blurred_map_is_recognised_beside_a_sky() -> None:
    """The sky is the brightest in the panorama, and black in the map."""
    rng = np.random.default_rng(0)
    albedo = rng.uniform(0.3, 0.5, (16, 32, 3)).repeat(16, 0).repeat(16, 1)
    picture = albedo.copy()
    for column in range(0, 512, 64):
        albedo[:128, column : column + 32], picture[:128, column : column + 32] = 0, 1
    small = resize(albedo.astype(np.float32), 128)
    blurred = ndimage.gaussian_filter(small, (2, 2, 0), mode=("nearest", "wrap", "nearest"))
    guide = resize(picture.astype(np.float32), 128)
    assert textures._is_blurred(blurred, guide)
    assert not textures._is_blurred(small, guide)


def test_a_window_lies_on_one_side_of_an_edge() -> None:
    """The fit beside a step knows nothing of the other side."""
    albedo = np.full((16, 32, 3), 0.2, np.float32)
    albedo[:, 16:] = 0.7
    light = np.where(np.arange(32) < 16, 1.0, 0.5)[None, :, None].astype(np.float32)
    found = guided.fit(albedo, albedo * light, 1e-3)
    inverse = np.log((albedo + 0.05) / (albedo * light + 0.05))
    np.testing.assert_allclose(np.moveaxis(found.value, 0, -1), inverse, atol=5e-3)
