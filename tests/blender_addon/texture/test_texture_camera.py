"""The scene camera's render of the selected objects as the reference picture."""

from __future__ import annotations

import bpy
import cycles_truth as cycles
import msgspec
import numpy as np
import pytest
from textured import texture

from panoform.blender_addon import preferences
from panoform.blender_addon.capture import render
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.texture.build import RECORD
from panoform.shared.imaging.colour import linear_from_srgb
from panoform.shared.jobs.texture import TextureInfo
from panoform.shared.protocol.errors import SceneError

RED = (0.8, 0.2, 0.1)


def glowing(name: str, colour: tuple[float, float, float]) -> bpy.types.Material:
    """A material that has an sRGB colour in any light."""
    material = bpy.data.materials.new(name)
    cycles.use_nodes(material)
    tree = material.node_tree
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = (*linear_from_srgb(np.array(colour)), 1)
    tree.links.new(emission.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    return material


@pytest.fixture
def red_cube(scene, monkeypatch: pytest.MonkeyPatch) -> bpy.types.Object:
    """A red cube of side 2 behind a blue plate, before a white world; an orthographic camera sees 4 × 4."""
    monkeypatch.setattr(render, "VIEW_SIDE_PX", 64)
    bpy.ops.mesh.primitive_plane_add(size=9, location=(0, -2, 0), rotation=(np.pi / 2, 0, 0))
    bpy.context.view_layer.objects.active.data.materials.append(glowing("blue", (0, 0, 1)))
    camera = bpy.data.objects.new("Kamera", bpy.data.cameras.new("Kamera"))
    camera.data.type, camera.data.ortho_scale = "ORTHO", 4
    camera.location, camera.rotation_euler = (0, -6, 0), (np.pi / 2, 0, 0)
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.resolution_x = scene.render.resolution_y = 200
    scene.render.film_transparent = False
    scene.world = bpy.data.worlds.new("white")
    bpy.ops.mesh.primitive_cube_add()
    thing = bpy.context.view_layer.objects.active
    thing.data.materials.append(glowing("red", RED))
    return thing


def state(scene: bpy.types.Scene) -> tuple:
    kinds = ("scenes", "objects", "cameras", "worlds", "images")
    names = tuple(
        sorted(block.name for kind in kinds for block in getattr(bpy.data, kind) if block.name != "Render Result")
    )
    return names, scene.render.engine, scene.render.film_transparent, scene.render.filepath, scene.camera.name


@pytest.mark.slow
def test_only_the_objects_are_rendered_on_transparency(addon: Jobs, scene, red_cube) -> None:
    before = state(scene)
    picture = render.ObjectRender(scene, [red_cube], samples=4).run()
    assert state(scene) == before
    assert picture.source == "Kamera"
    assert picture.pixels.shape == (64, 64, 4)
    shown = picture.pixels[..., 3] > 127
    expected = np.zeros((64, 64), bool)
    expected[16:48, 16:48] = True  # half the camera's width and height
    assert (shown != expected).mean() < 0.01
    inside = picture.pixels[18:46, 18:46, :3] / 255
    np.testing.assert_allclose(inside, np.broadcast_to(RED, (28, 28, 3)), atol=0.08)  # denoised, near the outline
    np.testing.assert_allclose(np.median(inside, axis=(0, 1)), RED, atol=0.01)
    assert (picture.pixels[:12, :, 3] == 0).all()


@pytest.mark.slow
def test_what_the_camera_cannot_show_is_said(addon: Jobs, scene, red_cube) -> None:
    before = state(scene)
    red_cube.location = (50, 0, 0)
    bpy.context.view_layer.update()
    with pytest.raises(SceneError, match="camera shows nothing of the selected"):
        render.ObjectRender(scene, [red_cube], samples=1).run()
    scene.camera.data.type = "PANO"
    with pytest.raises(SceneError, match="'Kamera' is a panoramic camera"):
        render.ObjectRender(scene, [red_cube], samples=1)
    assert state(scene) == before
    scene.camera = None
    with pytest.raises(SceneError, match="has no camera"):
        render.ObjectRender(scene, [red_cube], samples=1)


def test_objects_that_renders_do_not_show_are_named(addon: Jobs, scene, red_cube) -> None:
    red_cube.hide_render = True
    with pytest.raises(SceneError, match="'Cube' is disabled in renders"):
        render.ObjectRender(scene, [red_cube], samples=1)
    red_cube.hide_render, red_cube.visible_camera = False, False
    with pytest.raises(SceneError, match="'Cube' is hidden from cameras"):
        render.ObjectRender(scene, [red_cube], samples=1)


def test_only_rendered_lights_light_the_picture(addon: Jobs, scene, red_cube) -> None:
    """A white cube under a sun: it is dark where the sun, or a collection that holds it, is disabled in renders."""
    scene.world = None
    red_cube.data.materials[0] = bpy.data.materials.new("white")
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.rotation_euler, sun.data.energy = (np.pi / 2, 0, 0), 0.5
    outer, inner = bpy.data.collections.new("outer"), bpy.data.collections.new("inner")
    scene.collection.children.link(outer)
    outer.children.link(inner)
    inner.objects.link(sun)

    def colour() -> int:
        bpy.context.view_layer.update()
        return int(render.ObjectRender(scene, [red_cube], samples=1).run().pixels[32, 32, 0])

    lit = colour()
    assert lit > 50
    for thing in (sun, outer):
        thing.hide_render = True
        assert colour() == 0
        thing.hide_render = False
    bpy.context.view_layer.layer_collection.children["outer"].exclude = True
    assert colour() == 0
    bpy.context.view_layer.layer_collection.children["outer"].exclude = False
    assert colour() == lit


@pytest.mark.parametrize("kind", ["view", "film"])
def test_exposure_is_that_of_the_scene(addon: Jobs, scene, red_cube, kind: str) -> None:
    if kind == "view":
        scene.view_settings.exposure = -1
    else:
        scene.cycles.film_exposure = 0.5
    shown = render.ObjectRender(scene, [red_cube], samples=1).run().pixels[32, 32, :3] / 255
    np.testing.assert_allclose(linear_from_srgb(shown), linear_from_srgb(np.array(RED)) / 2, rtol=0.05)


@pytest.mark.slow
def test_camera_is_the_reference(set_up: Jobs, scene, red_cube) -> None:
    preferences.get().multiview_model = ""
    material = texture(use_camera=True)
    info = msgspec.json.decode(material[RECORD], type=TextureInfo)
    assert (info.task, info.source) == ("projection", "Kamera")
    image = next(node.image for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeTexImage")
    colours = np.array(image.pixels[:]).reshape(-1, 4)[:, :3]
    np.testing.assert_allclose(colours.mean(axis=0), RED, atol=0.02)
    assert [slot.material for slot in red_cube.material_slots] == [material]
    with pytest.raises(RuntimeError, match="a reference picture and the camera"):
        texture(use_camera=True, reference="some")
