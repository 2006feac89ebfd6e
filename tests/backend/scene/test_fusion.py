"""Maps of a room whose geometry is known exactly, with errors as a model's."""

from __future__ import annotations

import analytic_room as room
import numpy as np
import pytest
from scipy import ndimage

from panoform.backend.scene import build, fusion, normals, planes
from panoform.shared.imaging import sphere

HEIGHT = 128


def closed_room(height: int = HEIGHT) -> room.Hit:
    return room.cast(np.zeros(3), sphere.directions(height, 2 * height), window=False)


def picture(exact: room.Hit) -> np.ndarray:
    """Paint each side of the room and of the things in it in a colour of its own, (H, W, 3) sRGB."""
    return (0.5 + 0.3 * exact.normal).astype(np.float32)


def swollen(exact: room.Hit, strength: float = 0.03) -> np.ndarray:
    """Return distances whose surfaces swell and sink, evenly, over some ten pixels."""
    noise = np.random.default_rng(5).normal(size=exact.distance.shape)
    swell = ndimage.gaussian_filter(noise, len(noise) / 40, mode=("nearest", "wrap"))
    return exact.distance * np.exp(strength * swell / swell.std())


def angles(distance: np.ndarray, exact: room.Hit) -> np.ndarray:
    """Return the angles in degrees between surfaces of distances and the true ones, (H, W)."""
    surface, _ = normals.of_distance(distance, np.ones(distance.shape, bool))
    return np.degrees(np.arccos(np.clip((surface * exact.normal).sum(-1), -1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("height", [HEIGHT, 4 * HEIGHT])
def test_walls_that_swell_become_straight_by_the_normals(height: int) -> None:
    exact = closed_room(height)
    given = swollen(exact)
    fused = fusion.fuse(planes.fit(given, exact.normal), exact.normal, picture(exact)).distance
    assert np.median(angles(given, exact)) > 6
    assert np.median(angles(fused, exact)) < 3
    one, other = (np.abs(distance / exact.distance - 1).mean() for distance in (given, fused))
    assert other < 0.8 * one


@pytest.mark.slow
def test_a_hollow_that_the_panorama_does_not_show_is_filled() -> None:
    exact = closed_room()
    rays = sphere.directions(HEIGHT, 2 * HEIGHT)
    ahead = rays[..., 0] > 0.2
    y, z = (np.where(ahead, rays[..., axis] / np.maximum(rays[..., 0], 0.2), 9) * room.HIGH[0] for axis in (1, 2))
    hollow = (np.abs(y + 0.9) < 0.5) & (np.abs(z - 0.2) < 0.5)
    deep = swollen(exact, 0.01) * (1 + 0.15 * ndimage.gaussian_filter(hollow.astype(float), 1.2, mode="wrap"))
    inside = ndimage.binary_erosion(hollow, iterations=3)
    assert inside.sum() > 20

    def depth(shown: np.ndarray) -> float:
        fused = fusion.fuse(planes.fit(deep, exact.normal), exact.normal, shown).distance
        return float((fused / exact.distance - 1)[inside].mean())

    wall = picture(exact)
    niche = np.where(hollow[..., None], 1.0, wall).astype(np.float32)
    filled, kept = depth(wall), depth(niche)
    assert filled < 0.06
    assert kept > 0.1


@pytest.mark.slow
def test_exact_maps_are_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "fuse", lambda *_: pytest.fail("fused"))
    exact = room.maps(HEIGHT)
    found = build.find_layers(exact.distance, exact.normal)
    solid = found.planes.solid
    assert np.abs(found.planes.distance / exact.distance - 1)[solid].max() < 1e-5


def test_the_sky_stays_as_it_is() -> None:
    exact = room.maps(HEIGHT)
    solid = np.isfinite(exact.distance)
    fitted = planes.fit(np.where(solid, swollen(closed_room()), 1), exact.normal)
    found = planes.Planes(fitted.rays, fitted.distance, fitted.normal, fitted.trusted, solid, fitted.noise)
    fused = fusion.fuse(found, exact.normal, None)
    assert np.array_equal(fused.distance[~solid], found.distance[~solid])
    assert not np.array_equal(fused.distance[solid], found.distance[solid])


def test_distances_that_agree_with_the_normals_stay_as_they_are() -> None:
    exact = closed_room()
    noise = np.random.default_rng(2).normal(1, 0.002, exact.distance.shape)
    found = planes.fit(exact.distance * noise, exact.normal)
    assert fusion.fuse(found, exact.normal, None) is found
