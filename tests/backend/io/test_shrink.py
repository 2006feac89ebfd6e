"""Panoramas shrunk before they travel, resampled by the backend."""

import numpy as np

from panoform.backend.io.panoramas import resize
from panoform.shared.imaging.shrink import shrink


def test_what_the_model_sees_hardly_changes():
    """Resampled to the model's height, by the backend's own filter, with the block average before it and without."""
    panorama = resize(np.random.default_rng(0).lognormal(0, 1, (64, 128, 3)).astype(np.float32), 1024)
    direct, shrunk = resize(panorama, 128), resize(shrink(panorama, 128), 128)
    assert shrink(panorama, 128).shape == (512, 1024, 3)
    assert np.abs(direct - shrunk).mean() < 0.005 * direct.mean()
