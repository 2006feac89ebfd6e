"""Rasterising compared with an exhaustive test of all triangles at every pixel."""

import numpy as np
import pytest

from panoform.shared.imaging import rasterise as module
from panoform.shared.imaging.rasterise import rasterise


def exhaustive(points: np.ndarray, depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the nearest triangle of each pixel, by solving for barycentric coordinates."""
    shown = np.full((height, width), -1)
    for row in range(height):
        for column in range(width):
            best = np.inf
            for number, corners in enumerate(points):
                matrix = np.vstack([corners.T, np.ones(3)])
                if abs(np.linalg.det(matrix)) < 1e-12:
                    continue
                weights = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if weights.min() >= 0 and weights @ depth[number] < best:
                    best, shown[row, column] = weights @ depth[number], number
    return shown


@pytest.mark.parametrize("together", [10, 1_000_000])
def test_nearest_triangle_is_found(monkeypatch, together):
    monkeypatch.setattr(module, "_TOGETHER", together)
    rng = np.random.default_rng(3)
    points, depth = rng.uniform(-6, 22, (25, 3, 2)), rng.uniform(1, 2, (25, 3))
    points[4, 2] = points[4, 1]  # without area
    fragments = rasterise(points, 12, 16, depth)
    assert np.array_equal(fragments.triangle, exhaustive(points, depth, 12, 16))
    centres = np.stack(np.meshgrid(np.arange(16) + 0.5, np.arange(12) + 0.5), -1)
    np.testing.assert_allclose(fragments.interpolate(points)[fragments.mask], centres[fragments.mask], atol=1e-9)
    assert not fragments.interpolate(points)[~fragments.mask].any()


def test_adjacent_triangles_leave_no_gap():
    """A square of two triangles, through pixel centres."""
    square = np.array([[0.5, 0.5], [7.5, 0.5], [7.5, 7.5], [0.5, 7.5]])
    fragments = rasterise(square[np.array([[0, 1, 2], [0, 2, 3]])], 9, 9)
    assert fragments.mask[:8, :8].all()
    assert fragments.mask.sum() == 64
    assert rasterise(np.zeros((0, 3, 2)), 4, 4).mask.sum() == 0
