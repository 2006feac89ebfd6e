"""The operators for panoramas in the gallery, without a backend."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest

from panoform.backend.io.generated import Generated, encode
from panoform.blender_addon.capture import pixels, render, sources
from panoform.blender_addon.generate import gallery, gallery_operators, operators, panoramas
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.generate import GenerateSettings, Recipe, View


def write(folder: Path, name: str, prompt: str, **fields) -> Path:
    given = {"prompt": prompt, "seeds": (3,), "guidance_scale": 2.5, "negative_prompt": "people"}
    given = fields.pop("settings", {}) | given
    recipe = Recipe(**{
        "panoform": "0.1.0", "kind": "words", "engine": EngineSettings(engine="flux"), "model": "m", "adapters": "",
        "settings": GenerateSettings(**given), "source": "", "size": (512, 1024), "notices": (), "device": "cpu",
        "dtype": "fp32", "seconds": 1.0, "versions": {},
    } | fields)  # fmt: skip
    light = np.random.default_rng(0).uniform(0, 1, (16, 32, 3)).astype(np.float32)
    panoramas.write(folder / name, encode(Generated(light, recipe)))
    return folder / name


@pytest.fixture
def folder(addon: Jobs, scene, tmp_path: Path) -> Path:
    bpy.context.scene.panoform.generate.folder = str(tmp_path)
    return tmp_path


@pytest.fixture
def begun(monkeypatch) -> list:
    """The specs of the jobs that generate would have begun."""
    specs: list = []
    monkeypatch.setattr(operators, "run_job", lambda _operator, spec: specs.append(spec) or {"FINISHED"})
    return specs


def test_use_makes_it_the_world_and_can_be_undone(folder: Path, scene) -> None:
    path = write(folder, "a yard.exr", "a yard")
    assert bpy.ops.panoform.use_panorama(name=path.name) == {"FINISHED"}
    assert panoramas.world_files(scene) == [path]
    assert gallery.active(scene).path == path


def test_prompts_are_those_of_the_recipes_newest_first(folder: Path, scene) -> None:
    for index, prompt in enumerate(("a yard", "a hall", "a yard", " ")):
        write(folder, f"{index}.exr", prompt)
    assert gallery_operators.prompts(scene) == ["a yard", "a hall"]
    bpy.ops.panoform.use_prompt(prompt="a hall")
    assert scene.panoform.generate.prompt == "a hall"


def test_generate_again_has_the_recipes_settings_and_a_new_seed(folder: Path, scene, begun) -> None:
    panel = scene.panoform.generate
    panel.shift, panel.lora, panel.of, panel.count = 4, "mine.safetensors", "CAMERA", 3
    path = write(folder, "a yard.exr", "a yard", settings={"sun_strength": 0.5, "hdr": False})
    assert bpy.ops.panoform.generate_again(name=path.name) == {"FINISHED"}
    (spec,) = begun
    made = spec.request.settings
    assert (made.prompt, made.negative_prompt, made.guidance_scale) == ("a yard", "people", 2.5)
    assert (made.sun_strength, made.hdr, made.shift, made.lora, made.height) == (0.5, False, None, None, 512)
    assert len(made.seeds) == 1
    assert made.seeds != (3,)
    assert spec.request.engine.engine == "flux"


def test_generate_again_needs_the_picture(folder: Path, scene, begun) -> None:
    path = write(folder, "around.exr", "", kind="picture", source="photo.png", view=View(fov=60, yaw=10))
    with pytest.raises(RuntimeError, match=r"The picture 'photo\.png' is not in this file"):
        bpy.ops.panoform.generate_again(name=path.name)
    scene.panoform.engine = "AUTO"
    image = bpy.data.images.new("photo.png", 8, 6)
    assert bpy.ops.panoform.generate_again(name=path.name) == {"FINISHED"}
    assert scene.panoform.generate.image == image
    assert begun[0].request.view == View(fov=60, yaw=10)


def test_generate_again_renders_the_camera_again(folder: Path, scene, begun, monkeypatch) -> None:
    monkeypatch.setattr(operators, "RENDER_SAMPLES", 1)
    monkeypatch.setattr(render, "VIEW_SIDE_PX", 32)
    scene.name = "Küche"
    path = write(folder, "around.exr", "", kind="picture", source="Küche", view=View(fov=60))
    scene.panoform.engine = "AUTO"
    with pytest.raises(RuntimeError, match="The picture 'Küche' is not in this file"):  # nor is there a camera
        bpy.ops.panoform.generate_again(name=path.name)
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    assert bpy.ops.panoform.generate_again(name=path.name) == {"FINISHED"}
    assert scene.panoform.generate.of == "CAMERA"
    assert begun[0].source.source == "Küche"


def test_edits_are_not_generated_again(folder: Path, begun) -> None:
    path = write(folder, "edit.exr", "a door", kind="edit")
    with pytest.raises(RuntimeError, match="is an edit"):
        bpy.ops.panoform.generate_again(name=path.name)
    assert not begun


def test_delete_removes_both_files_and_worlds_keep_the_panorama(folder: Path, scene) -> None:
    path, other = write(folder, "a yard.exr", "a yard"), write(folder, "a hall.exr", "a hall")
    bpy.ops.panoform.use_panorama(name=path.name)
    image = sources.world_image(scene)[0]
    before = pixels.read(image).pixels
    assert bpy.ops.panoform.delete_panorama("EXEC_DEFAULT", name=path.name) == {"FINISHED"}
    assert sorted(file.name for file in folder.iterdir()) == ["a hall.exr", "a hall.json"]
    assert [entry.path for entry in gallery.entries(scene)] == [other]
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "kept.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "kept.blend"))
    kept = sources.world_image(bpy.context.scene)[0]
    np.testing.assert_array_equal(pixels.read(kept).pixels, before)


@pytest.mark.parametrize("name", ["", "notes.txt", "../a yard.exr"])
def test_only_panoramas_of_the_folder_are_deleted(folder: Path, name: str) -> None:
    write(folder.parent, "a yard.exr", "a yard")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="There is no panorama"):
        bpy.ops.panoform.delete_panorama("EXEC_DEFAULT", name=name)
    assert (folder / "notes.txt").exists()
    assert (folder.parent / "a yard.exr").exists()
