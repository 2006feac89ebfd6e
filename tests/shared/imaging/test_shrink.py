"""Shrinking panoramas before they are sent."""

import numpy as np

from panoform.shared.imaging.shrink import shrink


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(0, 1, (height, width, 3)).astype(np.float32)


def test_blocks_are_averaged():
    panorama = noise(256, 512)
    small = shrink(panorama, 16)
    assert small.shape == (64, 128, 3)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small[3, 5], panorama[12:16, 20:24].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(small.mean(), panorama.mean(), rtol=1e-5)


def test_small_or_indivisible_panorama_is_unchanged():
    for shape in ((64, 128), (509, 1018)):
        panorama = noise(*shape)
        assert shrink(panorama, 64) is panorama


def test_panorama_with_invalid_pixels_is_unchanged():
    panorama = noise(256, 512)
    panorama[7, 9] = np.nan
    assert shrink(panorama, 16) is panorama
