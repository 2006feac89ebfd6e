"""The balls under a world's light, compared with balls that Cycles renders in that world."""

from __future__ import annotations

from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from mathutils import Euler, Matrix

from panoform.blender_addon.open_file import operators as open_file
from panoform.blender_addon.scene import light_probe, world
from panoform.blender_addon.ui import previews
from panoform.shared.imaging.colour import srgb_from_linear

pytestmark = pytest.mark.usefixtures("addon")
INTERIOR = Path(bpy.utils.system_resource("DATAFILES", path="studiolights/world")) / "interior.exr"
VIEW = Euler((1.3, 0.2, 0.7)).to_matrix().to_4x4()


def shown() -> np.ndarray:
    """Return the previews, (2, 96, 96, 3), top row first, sRGB."""
    pictures = []
    for name in light_probe.NAMES:
        preview = previews._collection[name]
        flat = np.empty(4 * light_probe.SIZE**2, np.float32)
        preview.image_pixels_float.foreach_get(flat)
        pictures.append(flat.reshape(light_probe.SIZE, light_probe.SIZE, 4)[::-1, :, :3])
    return np.stack(pictures)


def ball(scene: bpy.types.Scene, folder: Path, *, mirror: bool) -> np.ndarray:
    """Return what Cycles shows of a ball, seen by an orthographic camera as the panel's balls are; linear light."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=256, ring_count=128)
    sphere = bpy.context.object
    bpy.ops.object.shade_smooth()
    material = bpy.data.materials.new("ball")
    cycles.use_nodes(material)
    tree = material.node_tree
    shader = tree.nodes.new("ShaderNodeBsdfAnisotropic" if mirror else "ShaderNodeBsdfDiffuse")
    shader.inputs["Color"].default_value = (1, 1, 1, 1) if mirror else (0.5, 0.5, 0.5, 1)
    if mirror:
        shader.inputs["Roughness"].default_value = 0
    tree.links.new(shader.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    sphere.data.materials.append(material)
    camera = bpy.data.cameras.new("view")
    camera.type, camera.ortho_scale = "ORTHO", 2.1
    scene.camera = bpy.data.objects.new("view", camera)
    scene.collection.objects.link(scene.camera)
    scene.camera.matrix_world = VIEW @ Matrix.Translation((0, 0, 5))
    cycles.settings(scene, light_probe.SIZE, light_probe.SIZE, 64)
    picture = cycles.combined(cycles.render(scene, folder / f"{mirror}.exr"))
    bpy.data.objects.remove(sphere)
    return picture


@pytest.mark.slow
def test_balls_are_those_that_cycles_renders(scene: bpy.types.Scene, tmp_path: Path) -> None:
    open_file._show(scene, INTERIOR)
    scene.view_settings.exposure = -2.0
    world.set_rotation(scene.world, Euler((0.1, -0.2, 2.0)).to_matrix().to_4x4())
    world.strength(scene.world).default_value = 1.5
    truth = [ball(scene, tmp_path, mirror=mirror) for mirror in (True, False)]
    assert len(light_probe.icons(scene)) == 2
    inside = np.hypot(*np.meshgrid(*2 * [np.linspace(-1.05, 1.05, light_probe.SIZE)])) < 0.9
    for picture, light, limit in zip(shown(), truth, (0.05, 0.03), strict=True):
        expected = srgb_from_linear((light / 4).clip(0, 1))
        wrong = np.abs(picture - expected)[inside].mean()
        assert wrong < limit
        assert np.abs(picture[:, ::-1] - expected)[inside].mean() > 3 * wrong


@pytest.mark.slow
def test_probe_follows_the_world(scene: bpy.types.Scene) -> None:
    open_file._show(scene, INTERIOR)
    light_probe.icons(scene)
    before = shown()
    light_probe.icons(scene)
    np.testing.assert_array_equal(shown(), before)
    scene.panoform.rotation = 1.0
    light_probe.icons(scene)
    turned = shown()
    assert np.abs(turned - before).max() > 0.2
    world.strength(scene.world).default_value = 0.1
    light_probe.icons(scene)
    assert shown().mean() < 0.6 * turned.mean()


def test_light_is_kept_with_the_file(scene: bpy.types.Scene, tmp_path: Path) -> None:
    open_file._show(scene, INTERIOR)
    light_probe.icons(scene)
    before = shown()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    light_probe.icons(bpy.context.scene)
    np.testing.assert_array_equal(shown(), before)


def test_worlds_of_the_user_have_no_probe(scene: bpy.types.Scene) -> None:
    assert not light_probe.icons(scene)
    scene.world = bpy.data.worlds.new("mine")
    assert not light_probe.icons(scene)


def test_light_of_another_image_is_not_shown(scene: bpy.types.Scene) -> None:
    open_file._show(scene, INTERIOR)
    assert light_probe.icons(scene)
    red = bpy.data.images.new("red", 64, 32, float_buffer=True)
    red.generated_color = (1, 0, 0, 1)
    textures = [node for node in scene.world.node_tree.nodes if node.bl_idname == "ShaderNodeTexEnvironment"]
    textures[0].image = red
    assert not light_probe.icons(scene)
    world.assign(scene, scene.world)
    assert light_probe.icons(scene)
    mirror, grey = shown()
    assert mirror[48, 48, 0] > 0.99
    assert not mirror[..., 1].any()
    assert grey[48, 48, 0] > 0.7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_height", 65),
        ("_height", "64"),
        ("_height", 0),
        ("_height", 1.5),
        ("", "text"),
        ("", 3),
        ("", b"abc"),
        ("_image", 3),
    ],
)
def test_edited_properties_show_nothing(scene: bpy.types.Scene, name: str, value: object) -> None:
    open_file._show(scene, INTERIOR)
    del scene.world[f"panoform_light{name}"]
    assert not light_probe.icons(scene)
    scene.world[f"panoform_light{name}"] = value
    assert not light_probe.icons(scene)
