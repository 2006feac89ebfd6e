"""The systems of the guided filter against numpy's solver."""

from __future__ import annotations

import numpy as np

from panoform.backend.scene import guided


def test_systems_of_all_pixels_are_solved_as_numpy_does():
    random = np.random.default_rng(0)
    factors = random.normal(size=(40, 50, 3, 3)) * random.choice([1e-3, 1, 30], size=(40, 50, 1, 1))
    matrices = factors @ factors.swapaxes(-1, -2) + 1e-3 * np.eye(3)
    right = random.normal(size=(40, 50, 3, 5))

    def planes(values: np.ndarray) -> np.ndarray:
        return np.moveaxis(values, (2, 3), (0, 1))

    np.testing.assert_allclose(guided._solve(planes(matrices), planes(right)), planes(np.linalg.solve(matrices, right)))
