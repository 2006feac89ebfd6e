"""Lamps of a room as lights: their place and power, and renders by Cycles before and after."""

from __future__ import annotations

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Matrix, Vector

from panoform.backend.scene.parts import encoded
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import build, environment, lights
from panoform.shared.jobs.scene import Part, SceneInfo, SceneReply

CAMERA_M, LAMP_M, SIDE_M = 1.6, 1.2, 0.4
#: Radiance of the two panels.
BRIGHT, DIM = np.array([40.0, 30.0, 20.0]), np.array([10.0, 10.0, 10.0])
PLACES = ((0.5, 1.0), (-1.5, -1.0))


def room() -> SceneReply:
    """Return a floor of 20 m, and two square panels over it that face down."""
    positions, triangles, uv = [], [], []

    def quad(x: float, y: float, z: float, half: float, u: float, up: bool) -> None:
        first = 4 * (len(triangles) // 2)
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        positions.extend((x + half * a, y + half * b, z) for a, b in corners)
        order = [(0, 1, 2), (0, 2, 3)] if up else [(0, 2, 1), (0, 3, 2)]
        triangles.extend(tuple(first + i for i in one) for one in order)
        uv.extend([[(u, 0.5)] * 3] * 2)

    quad(0, 0, -CAMERA_M, 10, 0.5, up=True)
    for u, place in zip((0.125, 0.875), PLACES, strict=True):
        quad(*place, LAMP_M, SIDE_M / 2, u, up=False)
    emission = np.zeros((8, 16, 3), np.float32)
    emission[:, :4], emission[:, 12:] = BRIGHT, DIM
    textures = {
        "albedo": encoded("albedo", np.full((8, 16, 3), 0.5, np.float32)),
        "emission": encoded("emission", emission),
    }
    return SceneReply(
        id=1, positions=np.array(positions, np.float32), triangles=np.array(triangles, np.uint32),
        uv=np.array(uv, np.float32), parts=(Part(name="visible", triangles=len(triangles), textures=textures),),
        info=SceneInfo(
            scale=1, has_floor=True, camera_height_m=CAMERA_M, world_from_panorama=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
            normal_confidence=None, sky=0.0, noise=0, notices=(), seconds=0,
        ),
    )  # fmt: skip


@pytest.fixture
def body(addon: Jobs, scene: bpy.types.Scene) -> bpy.types.Object:
    collection = build.build_mesh(scene, room(), None, "room", Matrix.Translation((0, 0, CAMERA_M)))
    found = environment.of(collection)
    assert found is not None
    bpy.context.view_layer.update()
    return found


def test_each_lamp_is_a_light_at_its_place_with_its_power(body: bpy.types.Object) -> None:
    assert bpy.ops.panoform.lamps_as_lights() == {"FINISHED"}
    bpy.context.view_layer.update()
    made = lights.lights_of(body)
    assert len(made) == 2
    total = BRIGHT.sum() + DIM.sum()
    for light, radiance, place in zip(made, (BRIGHT, DIM), PLACES, strict=True):
        assert (light.matrix_world.translation - Vector((*place, CAMERA_M + LAMP_M))).length < 0.1
        np.testing.assert_allclose(
            np.array(light.data.color) * light.data.energy, np.pi * SIDE_M**2 * radiance, rtol=0.1
        )
        assert light[lights.SHARE] == pytest.approx(radiance.sum() / total, abs=0.01)
        down = light.matrix_world.to_3x3() @ Vector((0, 0, -1))
        assert down.z == pytest.approx(-1, abs=1e-4)


def test_pressing_again_restores_the_lamps(body: bpy.types.Object) -> None:
    before = {thing.name for thing in bpy.data.objects}
    bpy.ops.panoform.lamps_as_lights()
    assert lights.are_separate(body)
    bpy.ops.panoform.lamps_as_lights()
    assert {thing.name for thing in bpy.data.objects} == before
    assert not bpy.data.lights
    assert not lights.are_separate(body)
    strengths = [m.node_tree.nodes["Principled BSDF"].inputs["Emission Strength"] for m in lights._materials(body)]
    assert [(one.default_value, one.is_linked) for one in strengths] == [(1.0, False)]


def test_lights_go_with_their_environment(body: bpy.types.Object) -> None:
    bpy.ops.panoform.lamps_as_lights()
    bpy.ops.panoform.remove_environment()
    assert not bpy.data.lights


@pytest.mark.slow
def test_lights_light_as_the_lamps_did(body: bpy.types.Object, tmp_path) -> None:
    """The floor, seen from above the lamps, whose backs the camera doesn't see."""
    eye = bpy.data.cameras.new("above")
    eye.type, eye.ortho_scale = "ORTHO", 4.0
    camera = bpy.data.objects.new("above", eye)
    camera.location = (0, 0, 2.0)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera

    def floor() -> np.ndarray:
        scene = bpy.context.scene
        scene.render.engine, scene.render.filepath = "CYCLES", str(tmp_path / "floor.exr")
        scene.render.resolution_x = scene.render.resolution_y = 24
        scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
        scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.device = 128, False, "CPU"
        bpy.ops.render.render(write_still=True)
        return np.asarray(oiio.ImageBuf(scene.render.filepath).get_pixels(oiio.FLOAT))[..., :3]

    before = floor()
    bpy.ops.panoform.lamps_as_lights()
    after = floor()
    print(before.mean((0, 1)), after.mean((0, 1)))
    np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), rtol=0.05)
    lights.lights_of(body)[0].hide_render = True
    dark = floor()
    assert dark.mean() == pytest.approx(before.mean() * DIM.sum() / (BRIGHT.sum() + DIM.sum()), rel=0.25)
