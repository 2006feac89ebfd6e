"""Soft maps of a room whose geometry is known exactly."""

from __future__ import annotations

import analytic_room as room
import numpy as np
import pytest

from panoform.backend.scene import flatten, planes, regularise, sky
from panoform.shared.imaging import sphere


@pytest.mark.slow
def test_sky_between_the_bars_of_a_window_is_found() -> None:
    exact = room.maps(256)
    wall = room.HIGH[0] / np.maximum(sphere.directions(256, 512)[..., 0], 0.1)
    place = sphere.directions(256, 512) * wall[..., None]
    window = np.isinf(exact.distance)
    # Two panes of three pixels at each side of a wide one.
    bars = window & (np.abs(np.abs(place[..., 1]) - 0.65) < 0.04)
    panes = window & (np.abs(place[..., 1]) > 0.68)
    distance = np.where(bars, wall, exact.distance)
    normal = np.where(window[..., None], -sphere.directions(256, 512), exact.normal)
    normal[bars] = -1, 0, 0
    soft = room.soften(room.Hit(np.minimum(distance, 300), normal))  # as far as a model has seen elsewhere
    clean = regularise.regularise(planes.fit(soft.distance, soft.normal))
    found = sky.find(clean.distance)
    assert (found & ~np.isinf(distance)).sum() < 0.02 * window.sum()
    assert (found & panes).sum() > 0.6 * panes.sum()
    # No bars hang in the air between the wall and the sky.
    between = window & ~found & (np.abs(clean.distance / wall - 1) > 0.5)
    assert between.sum() < 0.1 * window.sum()


@pytest.mark.slow
def test_walls_of_soft_maps_are_flat_and_round_things_stay_round() -> None:
    exact = room.maps(256)
    soft = room.soften(exact)
    fitted = planes.fit(soft.distance, soft.normal)
    clean = flatten.flatten(regularise.regularise(fitted))
    # Noise of 0.5 % moves points of walls by 7 mm in the median.
    points, true = clean.rays * clean.distance[..., None], clean.rays * exact.distance[..., None]
    for axis, place in ((0, room.LOW[0]), (1, room.LOW[1]), (1, room.HIGH[1]), (2, room.LOW[2]), (2, room.HIGH[2])):
        wall = np.abs(true[..., axis] - place) < 1e-6
        gap = np.abs(points[..., axis] - place)[wall]
        assert np.median(gap) < 8e-4
        assert np.quantile(gap, 0.85) < 1.2e-3
    ball = np.abs(np.linalg.norm(true - room.BALL, axis=-1) - room.RADIUS) < 1e-6
    turned = (clean.normal * exact.normal).sum(-1)[ball]
    assert np.quantile(turned, 0.15) > np.cos(np.radians(12))
    assert np.median(np.abs(clean.distance / exact.distance - 1)[ball]) < 0.003
