"""Scenes under the open sky: the camera stands free on a floor and sees the sky; weather is dark where lamps shine."""

import math

import numpy as np
import pytest

pytest.importorskip("bpy", reason="scenes need bpy")

import bpy

from panoform.backend.training.scenes import open_places, weather
from panoform.backend.training.scenes.build import Builder

PLACES = [getattr(open_places, name) for name in ("terrace", "roof", "cloister", "square", "park", "shore")]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_camera_stands_free_on_a_floor_and_sees_the_sky(place):
    rays = np.random.default_rng(0).normal(size=(400, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    for seed in range(4):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        height = place(Builder(np.random.default_rng(seed)))
        graph, scene = bpy.context.evaluated_depsgraph_get(), bpy.context.scene
        eye = np.array([0, 0, height])

        def distance(ray, graph=graph, scene=scene, eye=eye) -> float:
            found, at, *_ = scene.ray_cast(graph, eye, ray)
            return float(np.linalg.norm(np.array(at) - eye)) if found else math.inf

        far = np.array([distance(ray) for ray in rays])
        assert far.min() > 0.15
        assert np.isinf(far[rays[:, 2] > 0]).mean() > 0.1
        assert np.isfinite(far[rays[:, 2] < -0.1]).all()
        assert distance((0, 0, -1)) == pytest.approx(height, abs=0.15)


def test_weather_is_within_range_and_dark_at_night():
    kinds = [weather.choose(np.random.default_rng(seed)) for seed in range(300)]
    for one in kinds:
        colours = np.array([one.horizon, one.zenith, *one.clouds, one.sun_colour])
        assert (colours >= 0).all()
        assert (colours <= 1).all()
        assert 0 <= one.cover <= 1
        assert 0 <= one.elevation <= math.pi / 2
        assert one.brightness > 0
    assert max(one.brightness for one in kinds if one.night) < min(
        one.brightness for one in kinds if not one.night and one.sun
    )
    # Grey skies, which resemble ceilings: the horizon and the zenith have hardly any colour.
    grey = [max(np.ptp(one.horizon), np.ptp(one.zenith)) < 0.2 and one.cover >= 0.6 for one in kinds]
    assert 0.15 < np.mean(grey) < 0.4


@pytest.mark.slow
def test_the_sun_shines_from_where_the_sky_glows():
    for seed in range(12):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        found = weather.sky(np.random.default_rng(seed))
        nodes = bpy.context.scene.world.node_tree.nodes
        glow = [tuple(node.inputs[1].default_value) for node in nodes if node.type == "VECT_MATH"]
        suns = [thing for thing in bpy.data.objects if thing.type == "LIGHT"]
        assert len(glow) == bool(found.glow)
        assert len(suns) == bool(found.sun)
        if glow and suns:
            bpy.context.view_layer.update()
            # A sun shines along its own -Z.
            towards = suns[0].matrix_world.to_3x3().col[2]
            np.testing.assert_allclose(towards, glow[0], atol=1e-5)
            assert towards[2] == pytest.approx(math.sin(found.elevation), abs=1e-5)
