"""Reducing a panorama while its rows are read gives what reducing it as a whole does."""

import numpy as np
import pytest

from panoform.backend.io.resample import reduction, resample
from panoform.shared.imaging.shrink import shrink


def added(reduced, panorama, rows):
    for top in range(0, len(panorama), rows):
        reduced.add(panorama[top : top + rows])
    return reduced.result()


@pytest.mark.parametrize("rows", [1, 7, 128])
@pytest.mark.parametrize("size", [(96, 192), (60, 120)])
def test_blocks_are_those_of_shrink(rows, size):
    panorama = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    expected = shrink(panorama, 6)
    assert len(expected) <= len(panorama) / 2
    np.testing.assert_allclose(added(reduction(*size, 6), panorama, rows), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 10, 128])
@pytest.mark.parametrize(("size", "height", "result"), [((97, 194), 4, 16), ((50, 101), None, 50), ((97, 193), 4, 16)])
def test_others_are_resampled(rows, size, height, result):
    panorama = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    expected = resample(panorama, result, 2 * result)
    np.testing.assert_allclose(added(reduction(*size, height), panorama, rows), expected, rtol=1e-5, atol=1e-6)


def test_small_panoramas_stay_as_they_are():
    panorama = np.random.default_rng(0).random((64, 128, 3), dtype=np.float32)
    np.testing.assert_array_equal(added(reduction(64, 128, 16), panorama, 10), panorama)
    np.testing.assert_array_equal(added(reduction(64, 128, None), panorama, 64), panorama)
