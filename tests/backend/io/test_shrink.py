"""Shrinking panoramas before the backend resamples them."""

import numpy as np
import pytest

from panoform.backend.io.panoramas import resize
from panoform.shared.imaging.shrink import shrink


@pytest.mark.slow
def test_shrinking_hardly_changes_the_models_input():
    """Compare resampling to the model's height with and without the block average before it."""
    panorama = resize(np.random.default_rng(0).lognormal(0, 1, (64, 128, 3)).astype(np.float32), 1024)
    direct, shrunk = resize(panorama, 128), resize(shrink(panorama, 128), 128)
    assert shrink(panorama, 128).shape == (512, 1024, 3)
    assert np.abs(direct - shrunk).mean() < 0.005 * direct.mean()
