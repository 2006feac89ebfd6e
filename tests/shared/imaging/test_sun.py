"""Splitting off the sun, with synthetic discs (tests/backend/lighting/ has reconstructed suns)."""

import numpy as np
import pytest

from panoform.shared.imaging.sphere import directions
from panoform.shared.imaging.sun import split_sun

HEIGHT, WIDTH = 256, 512
SKY = np.array([0.2, 0.3, 0.5], np.float32)


def sky(toward: tuple[float, float, float], radius_deg: float, radiance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (a uniform sky with a white disc, (H, W, 3); the direction of the disc)."""
    centre = np.array(toward) / np.linalg.norm(toward)
    disc = directions(HEIGHT, WIDTH) @ centre > np.cos(np.radians(radius_deg))
    return SKY + disc[..., None] * np.float32(radiance), centre


@pytest.mark.parametrize("toward", [(1, 1, 1), (-1, 0.001, 0.3), (0.01, 0, 1), (0, 0.6, -0.8)])
def test_disc_is_split_off_at_any_position(toward: tuple[float, float, float]) -> None:
    light, centre = sky(toward, 2, 400)
    rest, sun = split_sun(light)
    assert sun is not None
    assert np.degrees(np.arccos(min(1, sun.direction @ centre))) < 0.5
    assert np.degrees(sun.diameter_rad) == pytest.approx(4, rel=0.2)
    assert sun.irradiance == pytest.approx(400 * np.pi * np.radians(2) ** 2, rel=0.15)
    np.testing.assert_allclose(rest, np.broadcast_to(SKY, rest.shape), rtol=1e-5)
    assert split_sun(rest)[1] is None, "the sun must be removed"
    assert light.max() > 400, "the input must not be modified"


def test_sun_of_one_pixel_is_one_pixel_wide() -> None:
    light = np.full((HEIGHT, WIDTH, 3), SKY)
    light[50, 7] += 3000
    _, sun = split_sun(light)
    assert sun is not None
    assert 0.5 < np.degrees(sun.diameter_rad) / (180 / HEIGHT) < 1.5


@pytest.mark.parametrize(("radius_deg", "radiance"), [(40, 3), (2, 1), (0.8, 5)], ids=["broad", "dim", "small"])
def test_broad_dim_or_small_light_is_not_a_sun(radius_deg: float, radiance: float) -> None:
    light, _ = sky((1, 1, 1), radius_deg, radiance)
    rest, sun = split_sun(light)
    assert sun is None
    assert np.array_equal(rest, light)


def test_black_panorama_has_no_sun() -> None:
    assert split_sun(np.zeros((HEIGHT, WIDTH, 3), np.float32))[1] is None
