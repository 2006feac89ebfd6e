"""Surfaces that shine beside lamps."""

import numpy as np

from panoform.backend.scene.match import match
from panoform.shared.imaging.sphere import directions


def test_the_outline_of_a_lamp_has_no_step():
    """In a sphere of grey paint, what is beside a lamp emits what it shows; it is lit alone from 2 degrees on."""
    height = 180
    rays = directions(height, 2 * height).astype(np.float32)
    lamps = np.zeros((height, 2 * height), bool)
    lamps[40:50, :5] = lamps[40:50, -5:] = True  # across the seam
    light = np.full((height, 2 * height, 3), 0.3, np.float32)
    light[lamps] = 50
    distance, grey = np.full(lamps.shape, 2.0), np.full(light.shape, 0.5, np.float32)
    emitted = match(light, distance, -rays, grey, lamps=lamps).emission[..., 0] / 0.3
    for row in (emitted[45, 5:], emitted[45, -6::-1]):
        np.testing.assert_allclose(row[:4], [1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(emitted[[39, 38, 37], 0], [1, 0.5, 0], atol=1e-6)
    assert not match(light, distance, -rays, grey).emission[~lamps].any(), "it is no brighter than white paint"
