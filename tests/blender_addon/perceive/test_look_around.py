"""Look around in the source and in maps: what is shown, and that everything comes back."""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import cycles_truth as cycles
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.blender_addon.generate import world_preview
from panoform.blender_addon.perceive import look_around, look_operators
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear
from panoform.shared.protocol.errors import PanoramaError, SceneError


@pytest.fixture
def screens(addon, scene) -> Iterator[list[bpy.types.Screen]]:
    yield [bpy.data.screens["Layout"]]
    look_around.stop()


def spaces(screens: list[bpy.types.Screen]) -> list:
    return [area.spaces.active for screen in screens for area in screen.areas if area.type == "VIEW_3D"]


def state(screens: list[bpy.types.Screen]) -> list[tuple]:
    """Return all that the views show."""
    kinds = [name for name in bpy.types.SpaceView3D.bl_rna.properties.keys() if name.startswith("show_object_")]  # noqa: SIM118
    return [
        (
            space.shading.type,
            space.shading.use_scene_world,
            space.overlay.show_overlays,
            space.clip_start,
            tuple(space.region_3d.view_rotation),
            tuple(space.region_3d.view_location),
            tuple(getattr(space, name) for name in kinds),
        )
        for space in spaces(screens)
    ]


def test_views_show_the_picture_alone_and_get_everything_back(scene, screens) -> None:
    own = bpy.data.worlds.new("my world")
    scene.world = own
    spaces(screens)[0].show_object_viewport_light = False
    before = state(screens)
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:4, 4] = (255, 0, 0)
    look_around.start(scene, picture, screens)
    assert look_around.is_active()
    assert scene.world != own
    image = bpy.data.images[world_preview.NAME]
    shown = np.empty(8 * 16 * 4, np.float32)
    image.pixels.foreach_get(shown)
    shown = shown.reshape(8, 16, 4)[::-1, :, :3]
    assert np.array_equal(np.round(shown * 255), picture)
    for space in spaces(screens):
        assert space.shading.type == "MATERIAL"
        assert not space.show_object_viewport_mesh
        assert not space.overlay.show_overlays
    look_around.start(scene, picture, screens)  # another picture: the views still return to the first
    look_around.stop()
    assert scene.world == own
    assert not world_preview.exists()
    assert [entry[:3] for entry in state(screens)] == [entry[:3] for entry in before]
    assert [entry[-1] for entry in state(screens)] == [entry[-1] for entry in before]


def test_operators_see_the_scene_itself(scene, screens) -> None:
    scene.world = bpy.data.worlds.new("my world")
    cycles.use_nodes(scene.world)
    tree = scene.world.node_tree
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = bpy.data.images.new("my hdri", 16, 8, float_buffer=True)
    tree.links.new(texture.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), screens)
    assert bpy.ops.panoform.split_sun() == {"CANCELLED"}, "a black picture has no sun"
    assert not look_around.is_active()
    assert scene.world.name == "my world"


def test_saving_and_loading_bring_the_scene_back(scene, screens, tmp_path) -> None:
    own = bpy.data.worlds.new("my world")
    scene.world = own
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), screens)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert not look_around.is_active()
    assert all(space.show_object_viewport_mesh for space in spaces(screens))
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), screens)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert not look_around.is_active()
    assert bpy.context.scene.world.name == "my world"


def test_views_come_back_although_a_window_was_closed(scene, screens) -> None:
    own = bpy.data.worlds.new("my world")
    scene.world = own
    closed = bpy.data.screens["Shading"]
    before = state(screens)
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), [closed, *screens])
    bpy.data.batch_remove([closed])
    look_around.stop()
    assert state(screens) == before
    assert scene.world == own
    assert not look_around.is_active()


def test_views_come_back_from_areas_that_were_split_or_show_another_editor(scene, screens) -> None:
    before = state(screens)
    area = next(area for area in screens[0].areas if area.type == "VIEW_3D")
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), screens)
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0], area=area):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.5)
    hidden = area.spaces.active
    area.type = "IMAGE_EDITOR"
    look_around.stop()
    assert [entry[-1] for entry in state(screens)] == [before[0][-1]], "the new half"
    assert hidden.show_object_viewport_mesh
    assert hidden.overlay.show_overlays
    area.type = "VIEW_3D"
    assert [entry[-1] for entry in state(screens)] == [before[0][-1]] * 2


def test_automatic_save_comes_back_when_it_is_loaded(scene, screens, tmp_path) -> None:
    spaces(screens)[0].show_object_viewport_light = False
    before = state(screens)
    look_around.start(scene, np.zeros((8, 16, 3), np.uint8), screens)
    handlers = list(bpy.app.handlers.save_pre)
    bpy.app.handlers.save_pre.clear()  # Auto Save calls none
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "quit.blend"), copy=True)
    bpy.app.handlers.save_pre.extend(handlers)
    look_around.stop()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "quit.blend"))
    assert [entry[-1] for entry in state([bpy.data.screens["Layout"]])] == [entry[-1] for entry in before]
    assert not world_preview.exists()


def test_maps_become_pictures(addon, scene, tmp_path) -> None:
    distance = np.array([[1.0, 2.0, 4.0, np.inf]], np.float32).repeat(2, axis=0)
    assert np.array_equal(_picture("distance", distance[..., None], tmp_path / "d.exr")[0, :, 0], [255, 128, 64, 0])
    normal = np.zeros((2, 4, 3), np.float32)
    normal[..., 2] = 1
    assert np.array_equal(_picture("normal", normal, tmp_path / "n.exr")[0, 0], [128, 128, 255])
    albedo = np.full((2, 4, 3), 0.2, np.float32)
    assert np.array_equal(_picture("albedo", albedo, tmp_path / "a.png")[0, 0], [51, 51, 51])
    count = len(bpy.data.images)
    with pytest.raises(PanoramaError, match="damaged"):
        look_around.map_picture("albedo", np.frombuffer(b"nothing", np.uint8))
    assert len(bpy.data.images) == count


def _picture(name: str, values: np.ndarray, path) -> np.ndarray:
    """Write a map to a file, as results have it, and return its picture."""
    kind = oiio.UINT16 if path.suffix == ".png" else oiio.FLOAT
    image = oiio.ImageBuf(oiio.ImageSpec(values.shape[1], values.shape[0], values.shape[2], kind))
    image.set_pixels(oiio.ROI(), values)
    assert image.write(str(path))
    return look_around.map_picture(name, np.fromfile(path, np.uint8))


def test_source_is_shown_as_it_would_be_perceived(addon, scene, tmp_path) -> None:
    settings = scene.panoform
    settings.source = "IMAGE"
    with pytest.raises(SceneError, match="There is no panorama yet"):
        look_operators.source(scene)
    picture = np.random.default_rng(0).integers(0, 255, (8, 16, 3))
    settings.image = bpy.data.images.new("picture", 16, 8)
    rgba = np.ones((8, 16, 4), np.float32)
    rgba[..., :3] = picture[::-1] / 255
    settings.image.pixels.foreach_set(rgba.ravel())
    assert np.abs(look_operators.picture(look_operators.source(scene)).astype(int) - picture).max() <= 1
    choices = [name for name, *_ in look_operators._choices(None, bpy.context)]
    assert choices == ["SOURCE"]
    assert not bpy.ops.panoform.look_around.poll(), "there is no window"


def test_rendered_world_is_shown_in_the_height_of_the_view(addon, scene, monkeypatch) -> None:
    monkeypatch.setattr(look_operators, "_HEIGHT_PX", 32)
    scene.panoform.source = "WORLD"
    world = scene.world = bpy.data.worlds.new("directions")
    cycles.use_nodes(world)
    coordinates = world.node_tree.nodes.new("ShaderNodeTexCoord")
    world.node_tree.links.new(coordinates.outputs["Generated"], world.node_tree.nodes["Background"].inputs["Color"])
    expected = srgb_from_linear(sphere.directions(32, 64).clip(0, 1)) * 255
    rendered = look_operators.source(scene)  # in the background; in a window it would be a job
    assert np.abs(look_operators.picture(rendered) - expected).max() < 1
    assert not [copy for copy in bpy.data.scenes if copy != scene], "the rendered copy is gone"
