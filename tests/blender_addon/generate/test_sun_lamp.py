"""Replacing the sun by a lamp: Cycles renders of a grey sphere on a plane, before and after."""

from __future__ import annotations

from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Matrix, Vector

from panoform.blender_addon.capture import pixels, sources
from panoform.blender_addon.generate import panoramas
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import world
from panoform.shared.imaging.sphere import directions, solid_angles

HEIGHT, WIDTH = 128, 256
SIZE_PX, SAMPLES = 32, 128
TOWARD = np.array([0.5, -0.4, 0.77]) / np.linalg.norm([0.5, -0.4, 0.77])
#: Rotation of the world, about Z and then tilted: the sun stays above the ground.
TURN = Matrix.Rotation(0.3, 4, "X") @ Matrix.Rotation(2.0, 4, "Z")


def sky(sun: float = 200.0) -> np.ndarray:
    rays = directions(HEIGHT, WIDTH).astype(np.float64)
    light = np.where(rays[..., 2:] > 0, [0.3, 0.4, 0.6], 0.1)
    disc = (rays @ TOWARD > np.cos(np.radians(3)))[..., None]
    return (light + sun * disc * np.array([1, 0.8, 0.6])).astype(np.float32)


def show(light: np.ndarray, folder: Path, turn: Matrix, strength: float = 1.0, name: str = "Zoës Himmel") -> Path:
    """Make an HDRI the world, with a user's names for file and world."""
    path = folder / f"{name}.exr"
    assert oiio.ImageBuf(np.ascontiguousarray(light)).write(str(path))
    made = world.create("mine", bpy.data.images.load(str(path)), turn)
    made.node_tree.nodes["Strength"].inputs["Strength"].default_value = strength
    bpy.context.scene.world = made
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT))


@pytest.fixture
def saved(addon: Jobs, scene, tmp_path: Path) -> Path:
    """Save a .blend of the sphere on the plane, with a camera above; return its folder."""
    folder = tmp_path / "Zoë's scene"
    folder.mkdir()
    grey = bpy.data.materials.new("grey")
    cycles.use_nodes(grey)
    grey.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (0.5, 0.5, 0.5, 1)
    grey.node_tree.nodes["Principled BSDF"].inputs["Specular IOR Level"].default_value = 0
    bpy.ops.mesh.primitive_plane_add(size=100)
    bpy.context.object.data.materials.append(grey)
    bpy.ops.mesh.primitive_uv_sphere_add(radius=1, location=(0, 0, 1))
    bpy.context.object.data.materials.append(grey)
    eye = bpy.data.cameras.new("above")
    eye.type, eye.ortho_scale = "ORTHO", 8
    scene.camera = bpy.data.objects.new("above", eye)
    scene.camera.location.z = 10
    scene.collection.objects.link(scene.camera)
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", SAMPLES, 1
    scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x = scene.render.resolution_y = SIZE_PX
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "scene.blend"))
    return folder


def render(folder: Path) -> np.ndarray:
    scene = bpy.context.scene
    scene.render.filepath = str(folder / "render.exr")
    scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 1024
    bpy.ops.render.render(write_still=True)
    return read(folder / "render.exr")[..., :3]


def difference(true: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(other - true).mean() / true.mean())


def state() -> tuple:
    scene = bpy.context.scene
    return scene.world.name, sorted(scene.objects.keys()), len(bpy.data.worlds), len(bpy.data.images)


def suns() -> list[bpy.types.Object]:
    return [thing for thing in bpy.context.scene.objects if thing.type == "LIGHT"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turn", "strength"),
    [(Matrix.Identity(4), 1.0), (TURN, 1.5)],
    ids=["plain", "turned"],
)
def test_lamp_and_remaining_hdri_light_the_scene_as_the_hdri_did(saved: Path, turn: Matrix, strength: float) -> None:
    path = show(sky(), saved, turn, strength)
    before = path.read_bytes()
    whole = render(saved)
    assert bpy.ops.panoform.split_sun() == {"FINISHED"}
    (lamp,) = suns()
    split = render(saved)
    lamp.hide_render = True
    without = render(saved)
    assert difference(whole, split) < 0.05
    assert difference(whole, without) > 0.2
    np.testing.assert_allclose(split.mean((0, 1)), whole.mean((0, 1)), rtol=0.03)

    assert lamp.name == "Panoform Sun"
    towards = lamp.matrix_world.to_3x3() @ Vector((0, 0, 1))
    assert towards.dot(turn.to_3x3() @ Vector(TOWARD)) > np.cos(np.radians(0.5))
    assert np.degrees(lamp.data.angle) == pytest.approx(6, rel=0.1)

    assert path.read_bytes() == before, "the user's file is unchanged"
    image, turned = sources.world_image(bpy.context.scene)
    assert image.name == "Zoës Himmel without sun"
    np.testing.assert_allclose(turned, turn, atol=1e-5)
    np.testing.assert_allclose(pixels.read(image).pixels, sky(sun=0), rtol=1e-5)
    assert bpy.data.worlds["mine"].use_fake_user, "the user's world is kept"


def test_second_split_updates_the_lamp(saved: Path) -> None:
    show(sky(), saved, TURN)
    bpy.ops.panoform.split_sun()
    before = state()
    assert bpy.ops.panoform.split_sun() == {"CANCELLED"}
    assert state() == before

    bpy.context.scene.world = bpy.data.worlds["mine"]  # contains the sun, which is replaced again
    suns()[0].data.energy = 0
    assert bpy.ops.panoform.split_sun() == {"FINISHED"}
    (lamp,) = suns()
    assert lamp.data.energy > 0
    assert lamp["panoform_only_in"] == bpy.context.scene.world


def test_hdri_without_a_sun_is_unchanged(saved: Path, capfd) -> None:
    show(sky(sun=0), saved, TURN)
    before = state()
    assert bpy.ops.panoform.split_sun() == {"CANCELLED"}
    assert state() == before
    assert "'mine' has no distinct sun" in capfd.readouterr().out


def test_split_is_one_undo_step(saved: Path) -> None:
    show(sky(), saved, TURN)
    before = state()
    bpy.ops.ed.undo_push(message="mine")
    bpy.ops.panoform.split_sun("EXEC_DEFAULT", True)
    assert state() != before
    bpy.ops.ed.undo()
    assert state() == before


def add_gamma(shown: bpy.types.World) -> None:
    tree = shown.node_tree
    gamma = tree.nodes.new("ShaderNodeGamma")
    tree.links.new(tree.nodes["Environment Texture"].outputs["Color"], gamma.inputs["Color"])
    tree.links.new(gamma.outputs["Color"], tree.nodes["Strength"].inputs["Color"])


def add_mix_shader(shown: bpy.types.World) -> None:
    tree = shown.node_tree
    mix = tree.nodes.new("ShaderNodeMixShader")
    tree.links.new(tree.nodes["Strength"].outputs[0], mix.inputs[1])
    tree.links.new(mix.outputs[0], tree.nodes["World Output"].inputs["Surface"])


def link_strength(shown: bpy.types.World) -> None:
    value = shown.node_tree.nodes.new("ShaderNodeValue")
    shown.node_tree.links.new(value.outputs[0], shown.node_tree.nodes["Strength"].inputs["Strength"])


@pytest.mark.parametrize("change", [add_gamma, add_mix_shader, link_strength])
def test_world_with_other_nodes_is_rejected(saved: Path, change) -> None:
    show(sky(), saved, TURN)
    change(bpy.context.scene.world)
    before = state()
    with pytest.raises(RuntimeError, match="change its HDRI"):
        bpy.ops.panoform.split_sun()
    assert state() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinite_and_nan_pixels_are_rejected(saved: Path, value: float) -> None:
    light = sky()
    light[5, 5, 1] = value
    show(light, saved, TURN)
    with pytest.raises(RuntimeError, match="infinite or NaN"):
        bpy.ops.panoform.split_sun()
    assert not suns()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["city", "forest", "sunrise", "courtyard"])
def test_light_removed_from_hdris_equals_the_lamp(saved: Path, name: str) -> None:
    """With Blender's CC0 HDRIs, some of which have slightly negative pixels."""
    path = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world" / f"{name}.exr"
    light = read(path)[..., :3].astype(np.float64)
    bpy.context.scene.world = world.create("mine", bpy.data.images.load(str(path)), Matrix.Identity(4))
    if name == "courtyard":  # an overcast sky
        assert bpy.ops.panoform.split_sun() == {"CANCELLED"}
        return
    assert bpy.ops.panoform.split_sun() == {"FINISHED"}
    (lamp,) = suns()
    rest = pixels.read(sources.world_image(bpy.context.scene)[0]).pixels.astype(np.float64)
    removed = ((light - rest) * solid_angles(*light.shape[:2])[..., None]).sum(axis=(0, 1))
    np.testing.assert_allclose(lamp.data.energy * np.array(lamp.data.color), removed, rtol=1e-4)
    assert ((rest == light.astype(np.float32)) | (rest < light)).all()


def test_world_without_an_hdri_is_rejected(addon: Jobs, scene) -> None:
    with pytest.raises(RuntimeError, match="no HDRI"):
        bpy.ops.panoform.split_sun()


def test_lamp_and_world_are_saved_in_the_blend(saved: Path) -> None:
    """No other file is written."""
    show(sky(), saved, TURN)
    files = set(saved.iterdir())
    bpy.ops.panoform.split_sun()
    assert set(saved.iterdir()) == files
    (lamp,) = suns()
    energy = lamp.data.energy
    rest = pixels.read(sources.world_image(bpy.context.scene)[0]).pixels
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    image, turned = sources.world_image(bpy.context.scene)
    assert image.packed_file
    np.testing.assert_array_equal(pixels.read(image).pixels, rest)
    np.testing.assert_allclose(turned, TURN, atol=1e-5)
    assert [one.data.energy for one in suns()] == [energy]


def test_lamp_rotates_with_its_world(saved: Path) -> None:
    show(sky(), saved, Matrix.Rotation(0.7, 4, "Z"))
    bpy.ops.panoform.split_sun()
    (lamp,) = suns()
    bpy.context.scene.world.node_tree.nodes["Rotation"].inputs["Rotation"].default_value[2] -= 1.9
    bpy.context.view_layer.update()
    turned = sources.world_image(bpy.context.scene)[1].to_3x3()
    assert turned.to_euler().z == pytest.approx(0.7 + 1.9)
    towards = lamp.matrix_world.to_3x3() @ Vector((0, 0, 1))
    assert towards.dot(turned @ Vector(TOWARD)) > np.cos(np.radians(0.5))


def test_lamp_is_visible_in_its_own_world_only(saved: Path) -> None:
    path = show(sky(), saved, TURN)
    bpy.ops.panoform.split_sun()
    (lamp,) = suns()
    world_without_sun = bpy.context.scene.world
    panoramas.show(bpy.context.scene, path, TURN)
    assert (lamp.hide_render, lamp.hide_viewport) == (True, True), "the HDRI contains the sun"
    world.assign(bpy.context.scene, world_without_sun)
    assert (lamp.hide_render, lamp.hide_viewport) == (False, False)
