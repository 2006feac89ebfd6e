"""One Ctrl+Z undoes every operator, and one that fails leaves the file as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
import room_folder
from generate.test_gallery_operators import write as write_panorama
from generate.test_panoramas import encoded
from scene.test_transaction import call

from panoform.backend.io.encoding import encode_image
from panoform.blender_addon.capture import pixels, sources
from panoform.blender_addon.generate import panoramas
from panoform.blender_addon.presets import store
from panoform.blender_addon.scene import assets, scale

#: They build what a job returns: one step of undo each, pushed by the timer in a window (jobs/timer.py).
OF_JOBS = {
    "perceive", "generate", "edit", "texture", "bake_texture_again", "render_panorama", "build_result",
    "generate_again", "perceive_panorama",
}  # fmt: skip
#: They change views, preferences, files, or what is running, but no datablock that undo restores.
OF_NO_DATABLOCK = {
    "look_around", "stop_looking", "enter_environment", "leave_environment", "forget_result", "cancel",
    "retry_job", "remove_waiting_job", "move_waiting_job", "clear_queue", "resume_queue", "drop_file", "export_scene",
    "setup_backend", "remove_backend", "stop_backend", "copy_error", "dismiss_error", "use_offload", "save_hub_token",
    "save_preset", "delete_preset", "export_preset", "check_models", "download_model", "cancel_download",
    "use_model_file", "show_panorama_folder", "use_multiview_hub", "measure_length", "show_models",
}  # fmt: skip


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_folder.write(tmp_path_factory.mktemp("maps") / "zimmer", room_folder.maps(32), room_folder.panorama(32))


@pytest.fixture
def folder(addon, scene, maps: Path, tmp_path: Path, monkeypatch) -> Path:
    """A saved file with a world of the user's own; in its folder are maps, a panorama of the gallery and a preset."""
    monkeypatch.setattr(store, "folder", lambda kind: tmp_path / "presets" / kind)
    shutil.copytree(maps, tmp_path / "maps")
    own = scene.world = bpy.data.worlds.new("mine")
    cycles.use_nodes(own)
    scene.panoform.generate.folder = str(tmp_path / "gallery")
    (tmp_path / "gallery").mkdir()
    write_panorama(tmp_path / "gallery", "a yard.exr", "a yard")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "mine.blend"))
    return tmp_path


def settings(group: bpy.types.PropertyGroup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in group.bl_rna.properties:
        value = getattr(group, one.identifier, None)  # other add-ons' tests leave some behind
        if isinstance(value, bpy.types.PropertyGroup):
            found |= {f"{one.identifier}.{name}": held for name, held in settings(value).items()}
        elif isinstance(value, bpy.types.ID):
            found[one.identifier] = value.name
        elif isinstance(value, str | int | float | bool | set):
            found[one.identifier] = value
    return found


def state() -> dict[str, Any]:
    """Return all datablocks, what keeps them, and the panel's settings."""
    found: dict[str, Any] = {}
    for name in dir(bpy.data):
        blocks = getattr(bpy.data, name)
        if isinstance(blocks, bpy.types.bpy_prop_collection) and name not in (
            "screens",
            "workspaces",
            "window_managers",
        ):
            for block in blocks:
                if isinstance(block, bpy.types.ID):
                    found[f"{name} {block.name}"] = block.users, block.use_fake_user, block.asset_data is not None
    for image in bpy.data.images:
        found[f"image {image.name}"] = image.packed_file is not None, image.filepath
    for one in bpy.data.scenes:
        found[one.name] = one.world and one.world.name, one.camera and one.camera.name
        found[f"settings of {one.name}"] = settings(one.panoform)
    for thing in bpy.data.objects:
        found[f"place of {thing.name}"] = (
            tuple(map(tuple, thing.matrix_world)), thing.hide_viewport, thing.hide_render, thing.is_shadow_catcher,
            [thing.get(one) and str(thing[one]) for one in (scale.SCALE, scale.MEASURED)],
        )  # fmt: skip
    return found


def _dome(folder: Path) -> dict:
    bpy.ops.panoform.import_maps(directory=str(folder / "maps"))
    return {}


def _nothing(_: Path) -> dict:
    return {}


def _mesh(folder: Path) -> dict:
    room = room_folder.write(folder / "room")
    bpy.ops.panoform.build_scene(directory=str(room), kind="MESH", camera_height=room_folder.CAMERA_M)
    return {}


def _panorama_as_world(_: Path) -> dict:
    bpy.ops.panoform.use_panorama(name="a yard.exr")
    bpy.context.scene.panoform.engine = "FLUX"
    return {}


def _sun(folder: Path) -> dict:
    sky = np.full((64, 128, 3), 0.2, np.float32)
    sky[20:23, 40:43] = 20_000
    (folder / "sun.exr").write_bytes(encode_image("sun.exr", sky, "Linear Rec.709"))
    bpy.ops.panoform.use_file(filepath=str(folder / "sun.exr"), use="WORLD")
    return {}


def _picture(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(encode_image(path.name, np.full((8, 12, 3), 0.5, np.float32), "sRGB", bits=8))
    return path


def _preset(folder: Path) -> dict:
    settings = bpy.context.scene.panoform
    settings.detail = 12345
    bpy.ops.panoform.save_preset(kind="perceive", name="fine")
    settings.detail = 54321
    return {"kind": "perceive", "name": "fine"}


def _exported(folder: Path) -> dict:
    _preset(folder)
    path = folder / f"exported{store.SUFFIX}"
    shutil.copy(store.find("perceive", "fine"), path)
    return {"kind": "perceive", "filepath": str(path)}


#: Operator → what it needs before it, which returns its arguments.
CHANGING: list[tuple[str, Callable[[Path], dict]]] = [
    ("build_scene", lambda folder: {"directory": str(folder / "maps"), "kind": "DOME"}),
    ("import_maps", lambda folder: {"directory": str(folder / "maps")}),
    ("remove_environment", _dome),
    ("restore_world", _dome),
    ("mark_as_asset", _dome),
    ("use_file", lambda folder: {"filepath": str(folder / "maps" / "panorama.exr"), "use": "WORLD"}),
    ("use_file", lambda folder: {"filepath": str(_picture(folder)), "use": "GENERATE"}),
    ("use_file", lambda folder: {"filepath": str(_picture(folder)), "use": "TEXTURE"}),
    ("use_panorama", lambda _: {"name": "a yard.exr"}),
    ("use_prompt", lambda _: {"prompt": "a hall"}),
    ("paint_mask", _panorama_as_world),
    ("split_sun", _sun),
    ("lamps_as_lights", _mesh),
    ("shadow_catcher", _dome),
    ("set_scale", lambda folder: _dome(folder) | {"measured": 1, "length": 2}),
    ("load_preset", _preset),
    ("import_preset", _exported),
]


#: They need no file.
WITHOUT_FILES = {
    "remove_environment", "restore_world", "use_prompt", "paint_mask", "split_sun", "lamps_as_lights", "shadow_catcher",
    "set_scale",
}  # fmt: skip


def test_every_operator_is_in_one_of_the_tables(addon) -> None:
    names = {name for name in dir(bpy.ops.panoform) if not name.startswith("_")}
    assert names == OF_JOBS | OF_NO_DATABLOCK | {name for name, _ in CHANGING} | {"delete_panorama"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prepare"), CHANGING)
def test_one_undo_restores_the_file(folder: Path, name: str, prepare: Callable[[Path], dict]) -> None:
    arguments = prepare(folder)
    bpy.ops.ed.undo_push(message="before")
    before = state()
    assert getattr(bpy.ops.panoform, name)("EXEC_DEFAULT", True, **arguments) == {"FINISHED"}
    assert state() != before
    bpy.ops.ed.undo()
    assert state() == before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prepare"), [one for one in CHANGING if one[0] not in WITHOUT_FILES])
def test_a_failing_operator_leaves_the_file(
    folder: Path, name: str, prepare: Callable[[Path], dict], monkeypatch
) -> None:
    """Every file that it would read is gone, and every file that it would write is a folder."""
    arguments = prepare(folder)
    (folder / assets.CATALOGUE_FILE).mkdir()
    for path in [file for file in folder.rglob("*") if file.suffix in (".exr", ".png", ".json", store.SUFFIX)]:
        if path.is_file():
            path.write_bytes(path.read_bytes()[:4])
    bpy.ops.ed.undo_push(message="before")
    before = state()
    with pytest.raises(RuntimeError):
        getattr(bpy.ops.panoform, name)("EXEC_DEFAULT", True, **arguments)
    assert state() == before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prepare"), [one for one in CHANGING if one[0] in WITHOUT_FILES])
def test_an_error_in_an_operator_leaves_the_file(folder: Path, name: str, prepare: Callable[[Path], dict]) -> None:
    """An error that nobody expects, at calls that it makes: the first twenty, the last, and some between.

    Removing is one call, which can't be undone; an error after it leaves the file as it is to be.
    """
    arguments = prepare(folder)

    def run() -> None:
        getattr(bpy.ops.panoform, name)("EXEC_DEFAULT", True, **arguments)

    bpy.ops.ed.undo_push(message="before")
    before, at = state(), 1
    run()
    after = state()
    bpy.ops.ed.undo()
    assert state() == before != after
    while not call(run, at, RuntimeError):
        if name == "remove_environment" and state() == after:
            break
        assert state() == before, at
        at += 1 if at < 20 else max(1, at // 6)


def test_a_deleted_panorama_stays_in_the_file_whatever_is_undone(folder: Path, scene) -> None:
    bpy.ops.panoform.use_panorama(name="a yard.exr")
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.panoform.delete_panorama("EXEC_DEFAULT", True, name="a yard.exr")
    bpy.ops.ed.undo()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "kept.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "kept.blend"))
    image = sources.world_image(bpy.context.scene)[0]
    assert tuple(image.size) == (32, 16)


def test_a_new_panorama_does_not_take_the_place_of_a_deleted_one(folder: Path, scene) -> None:
    path = folder / "gallery" / "a yard.exr"
    bpy.ops.panoform.use_panorama(name=path.name)
    before = pixels.read(sources.world_image(scene)[0]).pixels
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.panoform.delete_panorama("EXEC_DEFAULT", True, name=path.name)
    new = panoramas.write_new(path.parent, "A Yard", encoded())
    assert new.name == "A Yard 2.exr"
    bpy.ops.ed.undo()
    np.testing.assert_array_equal(pixels.read(sources.world_image(bpy.context.scene)[0]).pixels, before)
