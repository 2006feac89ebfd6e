"""Numbers of rows, compared with numpy's."""

import numpy as np
import pytest

from panoform.backend.texturing import rows


@pytest.mark.parametrize("shape", [(500, 3), (500, 2), (1, 3), (0, 3)])
def test_numbers_are_those_of_numpy(shape):
    values = np.random.default_rng(0).integers(-4, 4, shape)
    expected = np.unique(values, axis=0, return_inverse=True)[1].ravel()
    np.testing.assert_array_equal(rows.numbers(values), expected)
