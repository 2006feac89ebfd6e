"""Lamps of a room as lights: their place and power, and renders by Cycles before and after."""

from __future__ import annotations

import bpy
import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Matrix, Vector

from panoform.backend.scene.parts import encoded
from panoform.blender_addon.capture import sources
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import build, environment, images, lights, mesh, world
from panoform.shared.imaging import sphere
from panoform.shared.jobs.scene import Part, SceneInfo, SceneReply, Thing

CAMERA_M, LAMP_M, SIDE_M = 1.6, 1.2, 0.4
#: Radiance of the two panels.
BRIGHT, DIM = np.array([40.0, 30.0, 20.0]), np.array([10.0, 10.0, 10.0])
PLACES = ((0.5, 1.0), (-1.5, -1.0))
#: Direction and irradiance of the sun of `sunny`.
SUN, SUN_IRRADIANCE = np.array([1.0, 0.0, 1.0]) / np.sqrt(2), 5.0


def room(bright: np.ndarray = BRIGHT, sky: np.ndarray | None = None) -> SceneReply:
    """Return a floor of 20 m, and two square panels over it that face down. `sky`: light from outside, (H, W, 3)."""
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
    emission[:, :4], emission[:, 12:] = bright, DIM
    textures = {
        "albedo": encoded("albedo", np.full((8, 16, 3), 0.5, np.float32)),
        "emission": encoded("emission", emission),
    }
    return SceneReply(
        id=1, positions=np.array(positions, np.float32), triangles=np.array(triangles, np.uint32),
        uv=np.array(uv, np.float32),
        environment=None if sky is None else encoded("environment", sky),
        parts=(Part(name="visible", triangles=len(triangles), textures=textures),),
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
        assert light.name.endswith(f" W, {100 * light[lights.SHARE]:.0f} %)")
        assert [one.name for one in light.users_collection] == [f"Lights of {body.name}"]
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


def test_the_back_of_a_lamp_is_light_and_emits_nothing(addon: Jobs, scene: bpy.types.Scene) -> None:
    reply = room()
    visible = reply.parts[0]
    # The second panel is a thing, with a back that has the same texture coordinates.
    reply = msgspec.structs.replace(
        reply,
        triangles=np.concatenate([reply.triangles, reply.triangles[-2:, ::-1]]),
        uv=np.concatenate([reply.uv, reply.uv[-2:]]),
        parts=(visible, Part(name="back", triangles=2, textures={})),
        things=(Thing(name="lamp", visible=2, back=2, origin=(0, 0, 0)),),
    )
    thing, _ = mesh.create("room", reply)
    (lamp,) = lights.find(thing)
    assert lamp.area == pytest.approx(SIDE_M**2)
    np.testing.assert_allclose(lamp.normal, (0, 0, -1), atol=1e-6)
    up = next(polygon for polygon in thing.data.polygons if polygon.normal.z > 0)
    shader = thing.data.materials[up.material_index].node_tree.nodes["Principled BSDF"]
    assert not shader.inputs["Base Color"].is_linked
    assert min(shader.inputs["Base Color"].default_value) >= 0.5


def with_hidden_panel(dark: bool = False) -> bpy.types.Object:
    """Build the room with a second panel that is hidden, and may be dark."""
    reply = room()
    textures = hidden = reply.parts[0].textures
    if dark:
        hidden = textures | {"emission": encoded("emission", np.zeros((8, 16, 3), np.float32))}
    parts = (Part(name="visible", triangles=4, textures=textures), Part(name="hidden", triangles=2, textures=hidden))
    reply = msgspec.structs.replace(reply, parts=parts)
    found = environment.of(
        build.build_mesh(bpy.context.scene, reply, None, "room", Matrix.Translation((0, 0, CAMERA_M)))
    )
    assert found is not None
    bpy.context.view_layer.update()
    return found


def test_a_hidden_lamp_is_no_light(addon: Jobs, scene: bpy.types.Scene) -> None:
    """It shines for the camera only, before and after."""
    body = with_hidden_panel()
    (lamp,) = lights.find(body)
    np.testing.assert_allclose(lamp.place[:2], PLACES[0], atol=1e-5)
    hidden = next(one for one in body.data.materials if one.name == "room mesh hidden lamps")
    strength = hidden.node_tree.nodes["Principled BSDF"].inputs["Emission Strength"]
    for _ in range(2):  # Lamps as Lights, and back
        assert bpy.ops.panoform.lamps_as_lights() == {"FINISHED"}
        assert strength.links[0].from_socket.name == "Is Camera Ray"
    assert not lights.are_separate(body)


def test_lights_go_with_their_environment(body: bpy.types.Object) -> None:
    bpy.ops.panoform.lamps_as_lights()
    bpy.ops.panoform.remove_environment()
    assert not bpy.data.lights


def sunny(irradiance: float, height: int = 64) -> np.ndarray:
    """Return a sky of radiance 0.2 with a sun of that irradiance, 45° high, over black ground."""
    rays = sphere.directions(height, 2 * height)
    light = np.where(rays[..., 2:] > 0, 0.2, np.zeros(3)).astype(np.float32)
    row, column = np.unravel_index((rays @ SUN).argmax(), rays.shape[:2])
    light[row, column] += irradiance / sphere.solid_angles(height, 2 * height)[row, 0]
    return light


def yard(irradiance: float) -> bpy.types.Object:
    """Build the same under an open sky; one lamp is dark."""
    sky, scene = sunny(irradiance), bpy.context.scene
    panorama = images.create_float("sky", sky.clip(0, 1), "Linear Rec.709")
    reply = room(np.zeros(3), sky)
    collection = build.build_mesh(scene, reply, panorama, "yard", Matrix.Translation((0, 0, CAMERA_M)))
    found = environment.of(collection)
    assert found is not None
    bpy.context.view_layer.update()
    return found


@pytest.fixture
def outside(addon: Jobs, scene: bpy.types.Scene) -> bpy.types.Object:
    return yard(SUN_IRRADIANCE)


def test_the_sun_is_a_lamp_with_its_direction_and_strength(outside: bpy.types.Object) -> None:
    before = {thing.name for kind in (bpy.data.objects, bpy.data.images, bpy.data.collections) for thing in kind}
    bpy.ops.panoform.lamps_as_lights()
    bpy.context.view_layer.update()
    sun = next(one for one in lights.lights_of(outside) if one.data.type == "SUN")
    towards = sun.matrix_world.to_3x3() @ Vector((0, 0, 1))
    assert towards.angle(Vector(SUN)) < np.radians(2)  # a pixel is 3° wide
    assert sun.data.energy == pytest.approx(SUN_IRRADIANCE, rel=0.01)
    whole = SUN_IRRADIANCE + 0.2 * 2 * np.pi
    assert sun[lights.SHARE] == pytest.approx(SUN_IRRADIANCE / whole, rel=0.02)
    assert sun.name.startswith("yard mesh sun (5 W/m²")
    assert [one.name for one in sun.users_collection] == [f"Lights of {outside.name}"]
    bpy.ops.panoform.lamps_as_lights()
    assert not bpy.data.lights
    after = {thing.name for kind in (bpy.data.objects, bpy.data.images, bpy.data.collections) for thing in kind}
    assert after == before
    bpy.ops.panoform.lamps_as_lights()
    bpy.ops.panoform.remove_environment()
    assert not [*bpy.data.lights, *bpy.data.collections, *bpy.data.worlds]


def world_node(body: bpy.types.Object) -> bpy.types.ShaderNodeTexEnvironment:
    return body[environment.WORLD].node_tree.nodes[sources.LIGHT]


def test_an_image_that_the_user_chose_since_stays(outside: bpy.types.Object) -> None:
    images_before = set(bpy.data.images)
    bpy.ops.panoform.lamps_as_lights()
    own = bpy.data.images.new("own", 8, 4)
    world_node(outside).image = own
    bpy.ops.panoform.lamps_as_lights()
    assert set(bpy.data.images) == images_before | {own}
    assert world_node(outside).image == own
    assert not lights.are_separate(outside)


def test_copies_of_lights_stay(outside: bpy.types.Object) -> None:
    bpy.ops.panoform.lamps_as_lights()
    sun = next(one for one in lights.lights_of(outside) if one.data.type == "SUN")
    copy = sun.copy()
    sun.users_collection[0].objects.link(copy)
    bpy.ops.panoform.lamps_as_lights()
    assert [one for one in bpy.data.objects if one.type == "LIGHT"] == [copy]
    assert list(bpy.data.lights) == [copy.data]


def test_returning_bears_a_world_whose_image_is_gone(outside: bpy.types.Object) -> None:
    bpy.ops.panoform.lamps_as_lights()
    world_node(outside).image = None
    bpy.ops.panoform.lamps_as_lights()
    assert (world_node(outside).image, list(bpy.data.lights)) == (None, [])
    assert bpy.ops.panoform.lamps_as_lights() == {"FINISHED"}, "a missing image has no sun, and lamps are lights"
    assert {one.data.type for one in lights.lights_of(outside)} == {"AREA"}


def test_without_its_former_image_the_world_keeps_the_sky(outside: bpy.types.Object) -> None:
    with_sun = world_node(outside).image
    bpy.ops.panoform.lamps_as_lights()
    sky = world_node(outside).image
    bpy.data.images.remove(with_sun)
    bpy.ops.panoform.lamps_as_lights()
    assert world_node(outside).image == sky
    assert not lights.are_separate(outside)


def test_an_error_leaves_all_as_it_was(outside: bpy.types.Object) -> None:
    """A world with pixels that aren't numbers is refused by name, after the lamps of the mesh were made."""
    broken = images.create_float("broken", np.full((4, 8, 3), np.nan, np.float32), "Linear Rec.709")
    world_node(outside).image = broken
    before = {kind: set(getattr(bpy.data, kind)) for kind in ("objects", "lights", "collections", "images")}
    with pytest.raises(RuntimeError, match="'broken' has infinite or NaN"):
        bpy.ops.panoform.lamps_as_lights()
    assert {kind: set(getattr(bpy.data, kind)) for kind in before} == before
    assert not lights.are_separate(outside)


def test_one_sun_shines_at_a_time(outside: bpy.types.Object, scene: bpy.types.Scene) -> None:
    """The environment's sun belongs to its world, as the one of Extract Sun to the world without it."""
    hdri = images.create_float("HDRI", sunny(SUN_IRRADIANCE), "Linear Rec.709")
    next(node for node in scene.world.node_tree.nodes if node.type == "TEX_ENVIRONMENT").image = hdri
    bpy.ops.panoform.lamps_as_lights()
    built = scene.world

    def shining() -> list[float]:
        suns = [one for one in scene.objects if one.type == "LIGHT" and one.data.type == "SUN"]
        return [one.data.energy for one in suns if not one.hide_render]

    assert shining() == pytest.approx([SUN_IRRADIANCE], rel=0.01)
    bpy.ops.panoform.split_sun()
    assert scene.world != built
    assert shining() == pytest.approx([SUN_IRRADIANCE], rel=0.01)
    world.assign(scene, None)
    assert not shining()
    world.assign(scene, built)
    assert shining() == pytest.approx([SUN_IRRADIANCE], rel=0.01)


class Floor:
    """Renders the floor from above the lamps, whose backs the camera doesn't see."""

    def __init__(self, path) -> None:
        eye = bpy.data.cameras.new("above")
        eye.type, eye.ortho_scale = "ORTHO", 4.0
        camera = bpy.data.objects.new("above", eye)
        camera.location = (0, 0, 2.0)
        bpy.context.scene.collection.objects.link(camera)
        bpy.context.scene.camera = camera
        self._path = str(path / "floor.exr")

    def __call__(self) -> np.ndarray:
        scene = bpy.context.scene
        scene.render.engine, scene.render.filepath = "CYCLES", self._path
        scene.render.resolution_x = scene.render.resolution_y = 24
        scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
        scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.device = 128, False, "CPU"
        bpy.ops.render.render(write_still=True)
        return np.asarray(oiio.ImageBuf(self._path).get_pixels(oiio.FLOAT))[..., :3]


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    return float(20 * np.log10(truth.max()) - 10 * np.log10(((picture - truth) ** 2).mean()))


@pytest.mark.slow
def test_lights_light_as_the_lamps_did(body: bpy.types.Object, tmp_path) -> None:
    """Also with one switched off: as the same room without it. A lamp of the mesh can't be: the whole stays lit."""
    floor = Floor(tmp_path)
    before = floor()
    bpy.ops.panoform.lamps_as_lights()
    after = floor()
    np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), rtol=0.05)
    lights.lights_of(body)[0].hide_render = True
    relit = floor()
    bpy.ops.panoform.remove_environment()
    build.build_mesh(bpy.context.scene, room(np.zeros(3)), None, "dim", Matrix.Translation((0, 0, CAMERA_M)))
    truth = floor()
    figures = psnr(relit, truth), psnr(before, truth), psnr(np.zeros_like(truth), truth)
    print("PSNR of the relit floor, of the floor as it was, of the world alone:", figures)
    assert figures[0] > max(figures[1:]) + 6


@pytest.mark.slow
def test_a_hidden_lamp_does_not_light_the_scene(addon: Jobs, scene: bpy.types.Scene, tmp_path) -> None:
    with_hidden_panel()
    floor = Floor(tmp_path)
    shining = floor()
    scene.camera.location, scene.camera.data.ortho_scale = (*PLACES[1], 0.5), 0.5 * SIDE_M
    scene.camera.rotation_euler = (np.pi, 0, 0)
    np.testing.assert_allclose(floor().mean((0, 1)), DIM, rtol=0.2)  # seen from below
    bpy.ops.panoform.remove_environment()
    with_hidden_panel(dark=True)
    np.testing.assert_allclose(shining.mean((0, 1)), Floor(tmp_path)().mean((0, 1)), rtol=0.02)


@pytest.mark.slow
def test_the_sun_lights_as_the_world_did(outside: bpy.types.Object, tmp_path) -> None:
    floor = Floor(tmp_path)
    before = floor()
    bpy.ops.panoform.lamps_as_lights()
    after = floor()
    np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), rtol=0.05)
    for light in lights.lights_of(outside):
        light.hide_render = light.data.type == "SUN"
    relit = floor()
    bpy.ops.panoform.remove_environment()
    yard(0.0)
    np.testing.assert_allclose(relit.mean((0, 1)), floor().mean((0, 1)), rtol=0.05)
