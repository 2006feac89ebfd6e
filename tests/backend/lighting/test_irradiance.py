"""Light that arrives in the analytic room, against ray casting with its exact geometry."""

from __future__ import annotations

import analytic_room as room
import numpy as np

from panoform.backend.lighting.irradiance import irradiance
from panoform.shared.imaging.sphere import directions

HEIGHT = 64
EXACT = room.maps(HEIGHT)
RAYS = directions(HEIGHT, 2 * HEIGHT).astype(np.float64)
#: Radiance and radius in metres of a round lamp in the ceiling, around x = y = 0, and what the walls show.
LAMP, LAMP_M, WALLS = 200.0, 0.3, 0.5


def shown(origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the radiance that comes from unit rays (…, 3)."""
    hit = room.cast(origin, rays)
    place = origin + rays * np.where(np.isfinite(hit.distance), hit.distance, 0)[..., None]
    lamp = (np.abs(place[..., 2] - room.HIGH[2]) < 1e-6) & (np.hypot(place[..., 0], place[..., 1]) < LAMP_M)
    return np.where(np.isinf(hit.distance), 3.0, np.where(lamp, LAMP, WALLS))


def cast(place: np.ndarray, normal: np.ndarray, count: int = 40_000) -> float:
    """Return the irradiance at a place by rays spread by the cosine."""
    random = np.random.default_rng(0)
    rays = random.normal(size=(count, 3))
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) + normal
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return float(np.pi * shown(place + 1e-4 * normal, rays).mean())


def test_in_even_light_all_surfaces_receive_as_much() -> None:
    light = np.full((HEIGHT, 2 * HEIGHT, 3), (1.0, 0.5, 2.0), np.float32)
    found = irradiance(light, EXACT.distance, EXACT.normal)
    solid = np.isfinite(EXACT.distance)
    assert (found[~solid] == 0).all()
    relative = found[solid] / (np.pi * light[solid])
    assert np.abs(np.median(relative) - 1) < 0.05
    assert (np.abs(relative - 1) < 0.2).mean() > 0.85


def test_lamp_window_and_shadows_light_as_rays_say() -> None:
    light = shown(np.zeros(3), RAYS)[..., None] * np.ones(3)
    found = irradiance(light, EXACT.distance, EXACT.normal)[..., 0]
    random = np.random.default_rng(1)
    row, column = random.integers(8, HEIGHT - 4, 120), random.integers(0, 2 * HEIGHT, 120)
    kept = np.isfinite(EXACT.distance[row, column]) & (light[row, column, 0] == WALLS)
    row, column = row[kept], column[kept]
    place = RAYS[row, column] * EXACT.distance[row, column, None]
    true = np.array([cast(one, normal) for one, normal in zip(place, EXACT.normal[row, column], strict=True)])
    factor = np.exp(np.abs(np.log(found[row, column] / true)))
    assert true.max() > 2 * true.min()
    assert np.median(factor) < 1.1
    assert np.quantile(factor, 0.9) < 1.4
