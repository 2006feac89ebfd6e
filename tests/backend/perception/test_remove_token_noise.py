"""Removal of noise with the period of a token."""

import numpy as np
import pytest

from panoform.backend.perception import postprocess

HEIGHT, SPREAD = 128, 0.01


def panorama(rows: np.ndarray) -> np.ndarray:
    return np.broadcast_to(rows[:, None, None], (HEIGHT, 2 * HEIGHT, 3)).astype(np.float32)


def test_token_noise_is_removed_and_slow_changes_are_kept():
    y = np.arange(HEIGHT)
    slow = 0.5 + 0.02 * np.cos(y / HEIGHT * np.pi)
    noisy = slow + 0.004 * np.sin(y * 2 * np.pi / 16)
    filtered = postprocess.remove_token_noise(panorama(noisy), SPREAD)[16:-16]
    assert np.abs(filtered - panorama(slow)[16:-16]).max() < 0.001


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_edges_are_kept(step):
    edge = 0.3 + step * (np.arange(HEIGHT) >= HEIGHT // 2)
    assert np.abs(postprocess.remove_token_noise(panorama(edge), SPREAD) - panorama(edge)).max() < 0.06 * step


def test_filter_commutes_with_rolling():
    picture = np.random.default_rng(0).random((HEIGHT, 2 * HEIGHT, 3)).astype(np.float32)
    turned = postprocess.remove_token_noise(np.roll(picture, 50, axis=1), SPREAD)
    np.testing.assert_allclose(turned, np.roll(postprocess.remove_token_noise(picture, SPREAD), 50, axis=1), atol=1e-6)
