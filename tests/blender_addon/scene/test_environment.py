"""Stepping inside an environment and out, on the screens of the factory file (bpy has no window that draws)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import environment
from panoform.blender_addon.scene.build import build
from panoform.blender_addon.scene.images import create_float


@pytest.fixture
def screen(scene) -> Iterator[bpy.types.Screen]:
    """A screen with two 3D Views. Files that were opened without their screens leave it to later tests as it is."""
    screen = next(screen for screen in bpy.data.screens if len(views(screen)) == 2)
    before = environment.views([screen])
    yield screen
    environment.restore_views(before)


def views(screen: bpy.types.Screen) -> list[bpy.types.SpaceView3D]:
    spaces = [area.spaces.active for area in screen.areas]
    return [space for space in spaces if isinstance(space, bpy.types.SpaceView3D)]


def state(space: bpy.types.SpaceView3D) -> tuple:
    region, shading = space.region_3d, space.shading
    return (
        region.view_perspective, region.view_rotation[:], region.view_location[:], region.view_distance,
        space.clip_start, shading.type, shading.use_scene_world, shading.use_scene_lights,
    )  # fmt: skip


def eye(space: bpy.types.SpaceView3D) -> Vector:
    region = space.region_3d
    return region.view_location + region.view_rotation @ Vector((0, 0, region.view_distance))


def test_views_stand_in_the_centre_looking_forward(screen) -> None:
    pose = Matrix.Translation((1, 2, 1.6)) @ Matrix.Rotation(0.5, 4, "Z") @ Matrix.Scale(2, 4)
    environment.enter_screen(screen, pose)
    for space in views(screen):
        np.testing.assert_allclose(eye(space), (1, 2, 1.6), atol=1e-5)
        rotation = space.region_3d.view_rotation
        np.testing.assert_allclose(rotation @ Vector((0, 0, -1)), (np.cos(0.5), np.sin(0.5), 0), atol=1e-5)
        np.testing.assert_allclose(rotation @ Vector((0, 1, 0)), (0, 0, 1), atol=1e-5)
        assert space.region_3d.view_perspective == "PERSP"
        assert space.shading.type == "MATERIAL"
        assert space.shading.use_scene_world
        assert space.shading.use_scene_lights
        assert space.clip_start <= 0.01


def test_former_views_come_back(screen) -> None:
    first, second = views(screen)
    first.shading.type, first.clip_start, second.region_3d.view_perspective = "WIREFRAME", 0.3, "ORTHO"
    second.region_3d.view_distance = 42
    before = [state(space) for space in views(screen)]
    environment.enter_screen(screen, Matrix.Translation((0, 0, 1.6)))
    environment.enter_screen(screen, Matrix.Translation((5, 0, 1.6)))  # built again
    np.testing.assert_allclose(eye(first), (5, 0, 1.6), atol=1e-5)
    environment.leave_screen(screen)
    assert [state(space) for space in views(screen)] == before


def test_operator_returns_to_the_former_view(addon: Jobs, scene) -> None:
    screen = bpy.context.window_manager.windows[0].screen
    before = [state(space) for space in views(screen)]
    assert before
    assert not bpy.ops.panoform.leave_environment.poll()
    environment.enter_screen(screen, Matrix.Translation((0, 0, 1.6)))
    assert bpy.ops.panoform.leave_environment() == {"FINISHED"}
    assert [state(space) for space in views(screen)] == before
    assert not bpy.ops.panoform.leave_environment.poll()


def test_former_views_survive_save_and_reload(screen, tmp_path: Path) -> None:
    before, name = [state(space) for space in views(screen)], screen.name
    environment.enter_screen(screen, Matrix.Identity(4))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "inside.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "inside.blend"), load_ui=True)
    again = bpy.data.screens[name]
    environment.leave_screen(again)
    assert [state(space) for space in views(again)] == before


@pytest.mark.slow
def test_building_in_background_mode_leaves_the_views(addon: Jobs, scene) -> None:
    screens = {screen.name: [state(space) for space in views(screen)] for screen in bpy.data.screens}
    assert not bpy.ops.panoform.enter_environment.poll()
    assert environment.find(bpy.context) is None
    for x in (0, 1):
        distance = create_float("grey", np.ones((8, 16, 1)), "Non-Color")
        collection = build(scene, {"distance": distance}, None, f"grey {x}")
        bpy.context.view_layer.update()
    bpy.context.view_layer.objects.active = None
    assert environment.find(bpy.context) == collection.objects[0], "the newest"
    bpy.context.view_layer.objects.active = bpy.data.objects["grey 0 dome"]
    assert environment.find(bpy.context).name == "grey 0 dome"
    assert bpy.ops.panoform.enter_environment() == {"FINISHED"}
    assert {screen.name: [state(space) for space in views(screen)] for screen in bpy.data.screens} == screens
