"""Outlines are smooth: between the map's pixels they lie nearer to the true ones than the edges of its pixels do."""

from __future__ import annotations

import analytic_room as room
import bpy  # noqa: F401  # contains mathutils
import numpy as np
import pytest
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from panoform.backend.scene import build
from panoform.shared.imaging import sphere

HEIGHT, FINER = 128, 4


@pytest.mark.slow
def test_the_outline_of_a_ball_is_rounder_than_pixels_are() -> None:
    exact = room.maps(HEIGHT, window=False)
    surface = build.build(exact.distance, exact.normal, scale=1.0).surface
    tree = BVHTree.FromPolygons(surface.positions.tolist(), surface.triangles.tolist())
    assert tree is not None
    rays = sphere.directions(HEIGHT * FINER, 2 * HEIGHT * FINER)
    away = np.linalg.norm(room.BALL)
    angle, radius = np.arccos(rays @ room.BALL / away), np.arcsin(room.RADIUS / away)
    beside = np.abs(angle - radius) < 2 * np.pi / HEIGHT
    truth = room.cast(np.zeros(3), rays[beside]).distance
    pixels = np.repeat(np.repeat(exact.distance, FINER, 0), FINER, 1)[beside]
    seen = np.array([tree.ray_cast(Vector(), Vector(ray))[3] for ray in rays[beside]], float)

    def wrong(distance: np.ndarray) -> float:
        return float((np.abs(distance / truth - 1) > 0.1).mean())

    assert wrong(seen) < 0.8 * wrong(pixels)
