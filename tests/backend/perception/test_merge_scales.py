"""Merging maps that were perceived at two sizes."""

import numpy as np
import pytest

from panoform.backend.io import panoramas
from panoform.backend.perception import postprocess

HEIGHT = 64


def waves(height: int, periods: int) -> np.ndarray:
    """Return a sine wave around 0.5 with `periods` from left to right, (height, 2·height, 3)."""
    longitude = (np.arange(2 * height) + 0.5) / height * np.pi
    return np.broadcast_to(0.5 + 0.1 * np.sin(periods * longitude)[None, :, None], (height, 2 * height, 3)).astype(
        np.float32
    )


def test_equal_maps_are_unchanged():
    flat = np.full((HEIGHT, 2 * HEIGHT, 3), 0.3, np.float32)
    np.testing.assert_allclose(postprocess.merge_scales(flat[::2, ::2], flat), flat, atol=1e-6)


@pytest.mark.parametrize("columns", [0, 5, 70])
def test_detail_is_from_the_finer_map_and_low_frequencies_are_averaged(columns):
    fine = np.roll(waves(HEIGHT, 1) + waves(HEIGHT, 32) - 0.5, columns, axis=1)
    coarse = np.roll(np.full((HEIGHT // 2, HEIGHT, 3), 0.7, np.float32), columns, axis=1)
    merged = postprocess.merge_scales(coarse, fine)
    detail = np.roll(waves(HEIGHT, 32) - 0.5, columns, axis=1)
    low_frequencies = (0.7 + np.roll(waves(HEIGHT, 1), columns, axis=1)) / 2
    # The Gaussian attenuates even a single period by 3 %.
    np.testing.assert_allclose(merged, low_frequencies + detail, atol=0.005)


def test_merging_commutes_with_rolling():
    rng = np.random.default_rng(0)
    fine = panoramas.resize(rng.random((8, 16, 3)).astype(np.float32), HEIGHT)
    coarse = panoramas.resize(rng.random((8, 16, 3)).astype(np.float32), HEIGHT // 2)
    merged = postprocess.merge_scales(coarse, fine)
    turned = postprocess.merge_scales(np.roll(coarse, 10, axis=1), np.roll(fine, 20, axis=1))
    np.testing.assert_allclose(turned, np.roll(merged, 20, axis=1), atol=1e-6)
