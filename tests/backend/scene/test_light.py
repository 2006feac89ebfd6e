"""Lamps and the sky of a scene."""

from __future__ import annotations

import numpy as np

from panoform.backend.scene import light
from panoform.shared.imaging import sphere

HEIGHT, WIDTH = 64, 128


def room() -> tuple[np.ndarray, np.ndarray]:
    """Return the light and the sky of a grey room with a blue window and a lamp."""
    pixels = np.full((HEIGHT, WIDTH, 3), 0.2, np.float32)
    pixels += np.random.default_rng(0).uniform(-0.05, 0.05, pixels.shape).astype(np.float32)
    sky = np.zeros((HEIGHT, WIDTH), bool)
    sky[20:30, 50:70] = True
    pixels[sky] = (2.0, 3.0, 5.0)
    pixels[2:5, 100:110] = 30.0
    return pixels, sky


def test_lamp_is_found_and_the_sky_is_none() -> None:
    pixels, sky = room()
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:5, 100:110] = True
    rays = sphere.directions(HEIGHT, WIDTH)
    albedo = np.full_like(pixels, 0.5)
    np.testing.assert_array_equal(light.lamps(pixels, sky, -rays, albedo, np.zeros_like(sky)), expected)


def test_black_panorama_has_no_lamps() -> None:
    black, rays = np.zeros((HEIGHT, WIDTH, 3)), sphere.directions(HEIGHT, WIDTH)
    nowhere = np.zeros((HEIGHT, WIDTH), bool)
    assert not light.lamps(black, nowhere, -rays, black, nowhere).any()


def test_irradiance_is_the_integral_over_the_panorama() -> None:
    rng, rays = np.random.default_rng(1), sphere.directions(HEIGHT, WIDTH)
    pixels = 1 + 0.5 * rays @ rng.normal(size=(3, 3)) + 0.2 * rays[..., :1] * rays[..., 1:2]
    for normal in sphere.directions(4, 8).reshape(-1, 3):
        weight = np.maximum(rays @ normal, 0)[..., None] * sphere.solid_angles(HEIGHT, WIDTH)[..., None]
        expected = (pixels * weight).sum(axis=(0, 1))
        np.testing.assert_allclose(light.irradiance(pixels, normal), expected, atol=0.02)


def test_sky_goes_on_where_the_camera_does_not_see_it() -> None:
    pixels, sky = room()
    environment = light.environment(pixels, sky)
    np.testing.assert_array_equal(environment[sky], pixels[sky])
    above = environment[: HEIGHT // 2]
    np.testing.assert_allclose(above, np.broadcast_to((2, 3, 5), above.shape), rtol=0.01)  # no lamp, no ceiling
    assert not environment[HEIGHT // 2 :].any()


def test_sun_is_not_spread() -> None:
    pixels, sky = room()
    pixels[22, 52] = 10_000.0
    environment = light.environment(pixels, sky)
    assert environment[22, 52].min() == 10_000
    assert environment[~sky].max() < 25


def test_closed_room_gets_no_light_from_outside() -> None:
    pixels, sky = room()
    assert not light.environment(pixels, np.zeros_like(sky)).any()


def test_sunlit_ground_and_walls_are_no_lamps() -> None:
    pixels, sky = room()
    normal = -sphere.directions(HEIGHT, WIDTH)
    ground = np.zeros((HEIGHT, WIDTH), bool)
    ground[45:] = True
    pixels[50:60, 20:40] = pixels[34:40, 80:100] = 30.0  # ground, and a wall below the horizon
    pixels[40, 10] = 300.0  # a lamp in the garden
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:5, 100:110] = expected[40, 10] = True
    albedo = np.full_like(pixels, 0.3)
    np.testing.assert_array_equal(light.lamps(pixels, sky, normal, albedo, ground), expected)
    closed = light.lamps(pixels, np.zeros_like(sky), normal, albedo, ground)
    assert closed[52:58, 22:38].all()  # without a sky there is no sun
