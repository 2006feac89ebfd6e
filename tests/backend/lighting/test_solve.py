"""The light that a clipped panorama lost, on scenes whose light is known in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from panoform.backend.lighting import inverse_tonemapping, solve
from panoform.shared.imaging.colour import LUMINANCE, linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sphere import directions, solid_angles
from panoform.shared.protocol.errors import PanoramaError

HEIGHT, RADIUS = 256, 1.5
RAYS = directions(HEIGHT, 2 * HEIGHT).astype(np.float64)
SOLID = solid_angles(HEIGHT, 2 * HEIGHT).astype(np.float64)


class Scene(NamedTuple):
    """True light, the clipped 8-bit picture, and exact maps."""

    light: np.ndarray
    picture: np.ndarray
    maps: solve.Maps


def scene(
    light: np.ndarray, distance: np.ndarray, normal: np.ndarray, albedo: np.ndarray, irradiance: np.ndarray
) -> Scene:
    """Return a scene whose surfaces (finite `distance`) reflect `irradiance` (H, W, 3), as `solve` models them."""
    lit = np.isfinite(distance)[..., None] & (light.max(-1, keepdims=True) < 1)
    light = np.where(lit, (albedo + solve.SPECULAR) / np.pi * irradiance, light)
    picture = np.round(srgb_from_linear(np.clip(light, 0, 1)) * 65535) / 65535
    return Scene(light, picture.astype(np.float32), solve.Maps(albedo, distance, normal))


def sphere(sun_strength: float) -> Scene:
    """A dark sphere beside the camera under an even sky of radiance 0.1 and a warm sun of 3°.

    A convex body doesn't light itself, and an even sky lights every side alike: the irradiance is known exactly.
    """
    sun = np.array([0.5, 0.3, 0.8]) / np.linalg.norm([0.5, 0.3, 0.8])
    colour, centre = np.array([1.0, 0.8, 0.6]), 4 * np.array([np.cos(1.5), np.sin(1.5), -0.2])
    along = RAYS @ centre
    under = along**2 - centre @ centre + RADIUS**2
    hit = (under > 0) & (along > 0)
    distance = np.where(hit, along - np.sqrt(np.maximum(under, 0)), np.inf)
    normal = np.where(hit[..., None], RAYS * np.where(hit, distance, 0)[..., None] - centre, 0) / RADIUS
    disc = RAYS @ sun > np.cos(np.radians(1.5))
    sky = np.full((*distance.shape, 3), 0.1)
    sky[disc] += sun_strength / (SOLID * disc).sum() * colour
    irradiance = np.pi * 0.1 + sun_strength * colour * np.maximum(normal @ sun, 0)[..., None]
    return scene(sky, distance, normal, np.full(RAYS.shape, 0.04), irradiance)


def energy(light: np.ndarray) -> float:
    """Return the lost light: irradiance of all that is above white."""
    return float((np.maximum(light - 1, 0) @ LUMINANCE * SOLID).sum())


@pytest.mark.slow
@pytest.mark.parametrize("sun_strength", [2.0, 8.0, 40.0])
def test_a_sun_over_a_sphere_is_solved(sun_strength: float) -> None:
    """The estimate from the picture is 2 to 40 times too dim."""
    truth = sphere(sun_strength)
    assert energy(inverse_tonemapping.reconstruct(truth.picture)) < 0.5 * energy(truth.light)
    solution = solve.reconstruct(truth.picture, truth.maps)
    assert energy(solution.light) == pytest.approx(energy(truth.light), rel=0.01)
    assert solution.confidence > 0.95
    assert solution.spread < 1.01


@pytest.mark.slow
def test_the_sun_has_its_colour() -> None:
    light = np.maximum(solve.reconstruct(*picture_and_maps(sphere(8.0))).light - 1, 0) * SOLID[..., None]
    colour = light.sum((0, 1))
    np.testing.assert_allclose(colour / colour[0], [1, 0.8, 0.6], atol=0.02)


def picture_and_maps(truth: Scene) -> tuple[np.ndarray, solve.Maps]:
    return truth.picture, truth.maps


def test_light_is_unchanged_where_nothing_is_clipped() -> None:
    truth = sphere(8.0)
    picture = truth.picture * np.float32(0.9)
    solution = solve.reconstruct(picture, truth.maps)
    np.testing.assert_array_equal(solution.light, linear_from_srgb(picture.astype(np.float64)).astype(np.float32))
    assert solution.confidence == 1


@pytest.mark.slow
def test_pixels_that_are_not_clipped_are_unchanged() -> None:
    truth = sphere(8.0)
    light = solve.reconstruct(truth.picture, truth.maps).light
    kept = ~(truth.picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1)
    np.testing.assert_array_equal(light[kept], linear_from_srgb(truth.picture.astype(np.float64))[kept].astype("f4"))


def test_a_white_panorama_is_refused() -> None:
    with pytest.raises(PanoramaError, match="white everywhere"):
        solve.reconstruct(np.ones((64, 128, 3), np.float32), None)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no maps", "all sky", "black albedo", "NaN albedo", "NaN normals"])
def test_without_measurements_the_estimate_stays(case: str) -> None:
    picture, maps = picture_and_maps(sphere(8.0))
    changed = {
        "no maps": None,
        "all sky": maps._replace(distance=np.full_like(maps.distance, np.inf)),
        "black albedo": maps._replace(albedo=np.zeros_like(maps.albedo)),
        "NaN albedo": maps._replace(albedo=np.full_like(maps.albedo, np.nan)),
        "NaN normals": maps._replace(normal=np.full_like(maps.normal, np.nan)),
    }
    solution = solve.reconstruct(picture, changed[case])
    np.testing.assert_allclose(solution.light, inverse_tonemapping.reconstruct(picture), rtol=1e-6)
    assert (solution.confidence, solution.points) == (0, 0)


@pytest.mark.slow
def test_the_strength_of_suns_is_applied_after_the_solution() -> None:
    picture, maps = picture_and_maps(sphere(8.0))
    whole, half, none = (
        energy(solve.reconstruct(picture, maps, sun_strength=strength).light) for strength in (1.0, 0.5, 0.0)
    )
    assert half - none == pytest.approx((whole - none) / 2, rel=1e-3)
    assert none < 0.2 * whole


@pytest.mark.slow
def test_too_high_albedos_do_not_dim_a_sun() -> None:
    """By albedos that are far too high, less light arrives than the sky alone gives: that tells nothing of the sun."""
    picture, maps = picture_and_maps(sphere(2.0))
    estimate = energy(inverse_tonemapping.reconstruct(picture))
    assert energy(solve.reconstruct(picture, maps._replace(albedo=8 * maps.albedo)).light) > 0.95 * estimate


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.8, 1.5])
def test_an_error_that_all_albedos_share_leaves_the_sun(error: float) -> None:
    """The sky alone lights the dark side: how bright that is tells the error, and sunlit against shaded the sun."""
    picture, maps = picture_and_maps(truth := sphere(8.0))
    albedo = error * (maps.albedo + solve.SPECULAR) - solve.SPECULAR
    assert energy(solve.reconstruct(picture, maps._replace(albedo=albedo)).light) == pytest.approx(
        energy(truth.light), rel=0.02
    )


def test_sky_that_the_maps_show_as_a_surface_measures_nothing() -> None:
    """Its light and its albedo would mean five times as much light as on the floor; half as much again is believed."""
    rays = directions(128, 256)
    floor, sky = rays[..., 2] < -0.15, rays[..., 2] > 0.5
    distance = np.where(floor | sky, 2 / np.maximum(np.abs(rays[..., 2]), 0.15), np.inf)
    normal = np.where(floor[..., None], [0.0, 0.0, 1.0], -rays)
    maps = solve.Maps(np.full(rays.shape, 0.06), distance, normal)
    light, nothing = np.full(rays.shape, 0.02), np.zeros(distance.shape, bool)
    for brighter, on_sky in ((1.5, True), (5.0, False)):
        light[sky] = brighter * 0.02
        points = solve.measure(light, nothing, maps)
        assert (points.place[:, 2] > 0).any() == on_sky
        assert (points.place[:, 2] < 0).sum() > solve.POINTS / 2
