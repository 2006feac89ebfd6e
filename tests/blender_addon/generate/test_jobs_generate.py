"""The world during a job, and after it is cancelled, fails, or is built and undone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.generate import panoramas
from panoform.blender_addon.generate.spec import EditSpec, GenerateSpec
from panoform.blender_addon.jobs import timer
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.edit import EditRequest
from panoform.shared.jobs.generate import GenerateRequest, GenerateSettings
from panoform.shared.protocol.errors import BackendLostError, Cancelled


@pytest.fixture
def saved(addon: Jobs, scene, tmp_path: Path) -> Path:
    """Save a .blend with a user's world and return the folder of its panoramas."""
    bpy.context.scene.world = bpy.data.worlds.new("mine")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    return tmp_path / "panoramas"


def spec(flux: EngineSettings, lora: Path, steps: int = 2) -> GenerateSpec:
    settings = GenerateSettings(
        prompt="a yard", lora=str(lora), height=256, num_inference_steps=steps, seeds=(3,), measure_light=False
    )
    request = GenerateRequest(engine=flux, settings=settings)
    return GenerateSpec(name="a yard", scene_uid=bpy.context.scene.session_uid, request=request)


def tick_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        timer._tick()
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)


def world() -> str:
    return bpy.context.scene.world.name


def world_texture() -> bpy.types.Node:
    """Return the texture of the scene's world; a preview isn't a source (`sources.world_image`)."""
    nodes = bpy.context.scene.world.node_tree.nodes
    return next(node for node in nodes if node.bl_idname == "ShaderNodeTexEnvironment")


def begin_and_wait_for_preview(addon: Jobs, flux: EngineSettings, lora: Path) -> None:
    """Start a job and wait until its preview is the world."""
    addon.begin(spec(flux, lora, steps=40))
    tick_until(lambda: addon.job is None or addon.job.previews)
    assert addon.failure is None, addon.failure.details
    timer._tick()
    assert world() == "Panoform Preview"
    assert tuple(world_texture().image.size) == addon.job.previews["panorama"].shape[1::-1]


@pytest.mark.slow
def test_cancel_while_running_restores_world_and_files(addon: Jobs, saved, flux, tiny_lora) -> None:
    begin_and_wait_for_preview(addon, flux, tiny_lora)
    addon.cancel()
    tick_until(lambda: addon.job is None)
    timer._tick()
    assert isinstance(addon.failure.error, Cancelled)
    assert world() == "mine"
    assert [found.name for found in bpy.data.worlds] == ["mine"]
    assert not bpy.data.images
    assert not saved.exists()
    assert not addon.results


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.slow
def test_killed_backend_restores_the_world(addon: Jobs, saved, flux, tiny_lora) -> None:
    begin_and_wait_for_preview(addon, flux, tiny_lora)
    os.kill(addon.session.status.pid, signal.SIGKILL)
    tick_until(lambda: addon.job is None)
    timer._tick()
    assert isinstance(addon.failure.error, BackendLostError)
    assert world() == "mine"
    assert not saved.exists()


@pytest.mark.slow
def test_building_the_result_is_one_undo_step(addon: Jobs, saved, flux, tiny_lora) -> None:
    bpy.ops.ed.undo_push(message="mine")
    addon.begin(spec(flux, tiny_lora))
    deadline = time.monotonic() + 600
    while addon.job is not None:
        addon.poll()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert addon.failure is None, addon.failure.details
    assert not saved.exists(), "files are written when the result is built"
    bpy.ops.panoform.build_result("EXEC_DEFAULT", True, index=0)
    assert world() == "Panoform a yard"
    bpy.ops.ed.undo()
    assert world() == "mine"
    assert (saved / "a yard.exr").exists(), "undo does not delete the file"
    bpy.ops.ed.redo()
    assert world() == "Panoform a yard"
    assert panoramas.world_files(bpy.context.scene) == [saved / "a yard.exr"]


@pytest.mark.slow
def test_edit_preview_has_the_orientation_of_the_world(addon: Jobs, saved, flux, tiny_lora) -> None:
    example = spec(flux, tiny_lora, steps=40)
    panorama = np.full((256, 512, 3), 0.3, np.float32)
    addon.begin(
        EditSpec(
            source=Capture(Pixels(panorama, "linear"), "sky", Matrix.Rotation(1, 4, "Z")),
            name="sky",
            scene_uid=example.scene_uid,
            request=EditRequest(
                panorama=panorama, encoding="linear", engine=example.request.engine, settings=example.request.settings
            ),
        )
    )
    tick_until(lambda: addon.job is None or addon.job.previews)
    timer._tick()
    mapping = world_texture().inputs["Vector"].links[0].from_node
    assert mapping.inputs["Rotation"].default_value.z == pytest.approx(-1)
    addon.cancel()
    tick_until(lambda: addon.job is None)
