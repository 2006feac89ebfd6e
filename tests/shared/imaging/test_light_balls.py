"""Balls under light whose picture is known in closed form."""

import numpy as np
import pytest

from panoform.shared.imaging import light_balls
from panoform.shared.imaging.colour import linear_from_srgb


def centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    place = (np.arange(size) + 0.5) / size * 2.1 - 1.05
    right, up = np.meshgrid(place, -place)
    return right, up


@pytest.mark.parametrize("height", [24, 33, 128])
def test_even_light_gives_even_balls(height: int) -> None:
    light = np.broadcast_to(np.float32([0.8, 0.4, 0.2]), (height, 2 * height, 3))
    mirror, grey = np.split(linear_from_srgb(light_balls.balls(light, 64)), 2, axis=1)
    inside = np.hypot(*centres(64)) < 1
    np.testing.assert_allclose(mirror[inside], np.broadcast_to([0.8, 0.4, 0.2], mirror[inside].shape), atol=1e-4)
    np.testing.assert_allclose(grey[inside], np.broadcast_to([0.4, 0.2, 0.1], grey[inside].shape), rtol=0.02)
    assert not mirror[~inside].any()


def test_a_lamp_overhead() -> None:
    """Lambert's cosine law, and the law of reflection: seen along +X, a ball shows what is overhead halfway up."""
    light = np.zeros((180, 360, 3), np.float32)
    light[:2] = 400
    solid_angle = 2 * np.pi * (1 - np.cos(np.radians(2)))
    mirror, grey = np.split(linear_from_srgb(light_balls.balls(light, 128)), 2, axis=1)
    right, up = centres(128)
    inside = np.hypot(right, up) < 0.98
    expected = 0.5 / np.pi * 400 * solid_angle * np.maximum(up, 0)
    np.testing.assert_allclose(grey[inside][:, 0], expected[inside], atol=0.01)
    rows, columns = np.nonzero(mirror[..., 0])
    np.testing.assert_allclose(up[rows, columns].mean(), np.sqrt(0.5), atol=0.02)
    np.testing.assert_allclose(right[rows, columns].mean(), 0, atol=0.02)


def test_what_is_left_is_seen_on_the_left() -> None:
    light = np.zeros((90, 180, 3), np.float32)
    light[43:47, 43:47] = 1  # u = 0.25: +Y, on the left of +X
    mirror = light_balls.balls(light, 128)[:, :128]
    _rows, columns = np.nonzero(mirror[..., 0])
    np.testing.assert_allclose((columns.mean() + 0.5) / 128 * 2.1 - 1.05, -np.sqrt(0.5), atol=0.03)
