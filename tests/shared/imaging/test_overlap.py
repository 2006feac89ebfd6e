"""The overlap of triangles, known in closed form and by rasterising them one by one."""

import numpy as np
import pytest

from panoform.shared.imaging import overlap as module
from panoform.shared.imaging.overlap import overlap
from panoform.shared.imaging.rasterise import rasterise


def test_overlap_is_the_share_of_pixels_covered_twice():
    square = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    whole = square[np.array([[0, 1, 2], [0, 2, 3]])]
    assert overlap(whole, 16, 16) == 0  # their common edge goes through pixel centres
    shifted = whole + np.array([4, 0])
    assert overlap(np.concatenate([whole, shifted]), 16, 16) == pytest.approx(32 / 96, abs=0.1)
    assert overlap(np.concatenate([whole, whole]), 16, 16) == 1
    assert overlap(np.concatenate([whole, whole + np.array([8, 8])]), 16, 16) == 0


@pytest.mark.parametrize("together", [7, 1000])
def test_equals_the_triangles_rasterised_one_by_one(monkeypatch, together):
    monkeypatch.setattr(module, "_TOGETHER", together)
    rng = np.random.default_rng(5)
    points = rng.uniform(-10, 70, (60, 1, 2)) + rng.uniform(-15, 15, (60, 3, 2))
    points[3, 2] = points[3, 1]  # without area
    points[4, :2, 1] = 30.25  # with a level side
    count = sum(rasterise(one[None], 50, 60).mask.astype(int) for one in points)
    assert (count > 1).sum() > 100
    assert overlap(points, 50, 60) == (count > 1).sum() / (count > 0).sum()
