"""Panorama files, worlds, gallery, previews and masks, without a backend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bpy
import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Matrix

from panoform.backend.io import generated
from panoform.blender_addon.capture import pixels, sources
from panoform.blender_addon.generate import gallery, mask, panoramas, world_preview
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared import panorama_file
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.generate import GenerateSettings, PanoramaFile, Recipe
from panoform.shared.protocol.errors import OutputError


def recipe(encoding: str = "linear", turn: tuple[float, float, float] = (0, 0, 0), **settings) -> Recipe:
    return Recipe(
        panoform="0.1.0", kind="words", engine=EngineSettings(), model="m", adapters="",
        settings=GenerateSettings(**({"prompt": "a yárd", "seeds": (3,)} | settings)), encoding=encoding, turn=turn,
        source="", size=(32, 64), notices=(), device="cpu", dtype="fp32", seconds=1.0, versions={},
    )  # fmt: skip


def light() -> np.ndarray:
    array = np.random.default_rng(0).uniform(0, 1, (32, 64, 3)).astype(np.float32)
    array[3, 5] = 12345.678
    return array


def encoded(panorama: np.ndarray | None = None, its_recipe: Recipe | None = None) -> PanoramaFile:
    """Return the file of a panorama, as in a reply of the backend."""
    return generated.encode(generated.Generated(light() if panorama is None else panorama, its_recipe or recipe()))


@pytest.fixture
def saved(addon: Jobs, scene, tmp_path: Path) -> Path:
    """Save a .blend and return its folder."""
    folder = tmp_path / "Zoë's scene"
    folder.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "scene.blend"))
    return folder


def test_gallery_restores_the_rotation_of_the_world(saved: Path) -> None:
    turn = Matrix.Rotation(0.5, 4, "Z") @ Matrix.Rotation(-1.2, 4, "Y") @ Matrix.Rotation(0.3, 4, "X")
    folder = saved / "panoramas"
    panoramas.write(folder / "turned 3.exr", encoded(light(), recipe(turn=panoramas.turn(turn))))
    panoramas.write(folder / "plain 3.exr", encoded())
    settings = bpy.context.scene.panoform.generate
    for name, expected in (("turned 3.exr", turn), ("plain 3.exr", Matrix.Identity(4))):
        settings.gallery = name
        image, shown = sources.world_image(bpy.context.scene)
        assert Path(image.filepath).name == name
        np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_file_equals_that_of_the_command_line(addon: Jobs, scene, tmp_path: Path) -> None:
    path, other = tmp_path / "größe.exr", tmp_path / "other.exr"
    data = encoded()  # once: its header holds the second, and the recipe its digest
    panoramas.write(path, data)
    generated.write(other, data)
    assert path.read_bytes() == other.read_bytes()
    assert path.with_suffix(".json").read_bytes() == other.with_suffix(".json").read_bytes()
    read = oiio.ImageBuf(str(path))
    assert np.array_equal(read.get_pixels(oiio.FLOAT), light())
    assert read.nativespec().format.basetype == oiio.FLOAT
    assert json.loads(read.spec().getattribute("panoform"))["settings"]["prompt"] == "a yárd"
    assert panorama_file.read_recipe(path.with_suffix(".json")) == recipe()
    assert len(list(tmp_path.iterdir())) == 4
    assert not bpy.data.images


def test_failed_write_leaves_no_file(addon: Jobs, scene, tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(OutputError, match="can't be written"):
        panoramas.write(tmp_path / "x.exr", encoded())
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="can't be written"):
        panoramas.write(tmp_path / "file" / "x.exr", encoded())


def test_free_path_is_valid_and_unused(tmp_path: Path) -> None:
    first = panoramas.free_path(tmp_path, "a yard/with: walls")
    assert first == tmp_path / "a yard with  walls.exr"
    first.touch()
    assert panoramas.free_path(tmp_path, "a yard/with: walls") == first.with_stem(first.stem + " 2")
    first.with_stem(first.stem + " 2").with_suffix(".json").touch()
    assert panoramas.free_path(tmp_path, "a yard/with: walls") == first.with_stem(first.stem + " 3")
    assert panoramas.free_path(tmp_path, "  ").name == "panorama.exr"
    assert len(panoramas.free_path(tmp_path, "word " * 1000).name) < 60
    assert panoramas.free_path(tmp_path, "石の中庭").name == "石の中庭.exr"
    assert panoramas.free_path(tmp_path, "schöner Höf, 2.0").name == "schöner Höf, 2.0.exr"
    assert panoramas.free_path(tmp_path, 'a\\b|c?"d"\n').name == "a b c  d.exr"
    assert panoramas.free_path(tmp_path, "COM¹").name == "panorama COM¹.exr"


def test_two_blenders_take_two_names(addon: Jobs, scene, tmp_path: Path, monkeypatch) -> None:
    """The other one writes after this one has found the name to be free."""
    find, other = panoramas.free_path, []

    def found(folder: Path, prompt: str) -> Path:
        path = find(folder, prompt)
        if not other:
            other.append(path)
            panoramas.write(path, encoded(light() / 2))
        return path

    monkeypatch.setattr(panoramas, "free_path", found)
    path = panoramas.write_new(tmp_path, "a yard", encoded())
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"a yard{n}.{end}" for n in (" 2", "") for end in ("exr", "json")
    ]
    assert path.name == "a yard 2.exr"
    assert np.array_equal(oiio.ImageBuf(str(other[0])).get_pixels(oiio.FLOAT), light() / 2)
    assert np.array_equal(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT), light())


def test_failed_write_frees_its_name(addon: Jobs, scene, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(panorama_file, "sidecar_json", lambda panorama: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        panoramas.write_new(tmp_path, "a yard", encoded())
    assert not list(tmp_path.iterdir())


def test_show_creates_a_world_with_the_exact_pixels(saved: Path) -> None:
    scene = bpy.context.scene
    mine = scene.world = bpy.data.worlds.new("mine")
    path = saved / "panoramas" / "x.exr"
    panoramas.write(path, encoded())
    panoramas.show(scene, path, Matrix.Rotation(1, 4, "Z"))
    image, turn = sources.world_image(scene)
    assert np.array_equal(pixels.read(image).pixels, light())
    assert turn.to_euler().z == pytest.approx(1)
    assert mine.use_fake_user
    first = scene.world
    scene.world = mine
    assert panoramas.show(scene, path, Matrix.Identity(4)) == first
    assert panoramas.world_files(scene) == [path]


def test_rewritten_file_is_reloaded(saved: Path) -> None:
    scene, path = bpy.context.scene, saved / "panoramas" / "x.exr"
    panoramas.write(path, encoded(light() / 2))
    panoramas.show(scene, path, Matrix.Identity(4))
    image, _ = sources.world_image(scene)
    assert np.array_equal(pixels.read(image).pixels, light() / 2)
    panoramas.write(path, encoded())
    assert np.array_equal(pixels.read(image).pixels, light())


def test_gallery_lists_panoramas_and_switches_worlds(saved: Path) -> None:
    scene, folder = bpy.context.scene, saved / "panoramas"
    settings = scene.panoform.generate
    assert gallery.entries(scene) == []
    panoramas.write(folder / "one.exr", encoded(light(), recipe(prompt="one")))
    panoramas.write(folder / "two.exr", encoded(light(), recipe(prompt="two")))
    (folder / "notes.json").write_text('{"mine": 1}')
    (folder / "lost.json").write_bytes(msgspec.json.encode(recipe()))
    assert [entry.path.stem for entry in gallery.entries(scene)] == ["two", "one"]
    assert gallery.active(scene) is None
    settings.gallery = "one.exr"
    first = scene.world
    assert gallery.active(scene).recipe.settings.prompt == "one"
    settings.gallery = "two.exr"
    assert scene.world != first
    settings.gallery = "one.exr"
    assert scene.world == first, "the existing world is used again"
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(saved / "scene.blend"))
    assert bpy.context.scene.panoform.generate.gallery == "one.exr"


def test_gallery_ignores_foreign_files(saved: Path) -> None:
    scene, folder = bpy.context.scene, saved / "panoramas"
    panoramas.write(folder / "good.exr", encoded())
    for name, text in (
        ("latin", msgspec.json.encode(recipe()).replace("á".encode(), b"\xe1")), ("deep", b'{"a":' * 100_000),
        ("empty", b""), ("list", b"[]"),
    ):  # fmt: skip
        (folder / f"{name}.exr").touch()
        (folder / f"{name}.json").write_bytes(text)
        with pytest.raises(OutputError, match="holds no recipe"):
            panorama_file.read_recipe(folder / f"{name}.json")
    (folder / "folder.exr").touch()
    (folder / "folder.json").mkdir()
    if os.name == "posix":
        (folder / "nowhere.json").symlink_to("nothing")
        (folder / "nowhere.exr").touch()
        for suffix in (b"exr", b"json"):
            Path(os.fsdecode(os.fsencode(folder) + b"/\xff." + suffix)).write_bytes(msgspec.json.encode(recipe()))
    assert [entry.path.stem for entry in gallery.entries(scene)] == ["good"]
    scene.panoform.generate.gallery = "good.exr"
    assert gallery.active(scene) is not None


def test_switching_worlds_can_be_undone(saved: Path) -> None:
    for name in ("one", "two"):
        panoramas.write(saved / "panoramas" / f"{name}.exr", encoded())
    bpy.context.scene.panoform.generate.gallery = "one.exr"
    bpy.ops.ed.undo_push(message="one")
    bpy.context.scene.panoform.generate.gallery = "two.exr"
    bpy.ops.ed.undo_push(message="two")
    bpy.ops.ed.undo()
    assert bpy.context.scene.panoform.generate.gallery == "one.exr"


# Previews


def picture(value: int) -> np.ndarray:
    array = np.full((8, 16, 3), value, np.uint8)
    array[0, 0] = (255, 0, 0)
    return array


def counts() -> tuple:
    return tuple(len(getattr(bpy.data, kind)) for kind in ("worlds", "images", "scenes"))


@pytest.mark.parametrize("has_world", [True, False])
def test_preview_is_the_world_until_removed(addon: Jobs, scene, has_world: bool) -> None:
    mine = scene.world = bpy.data.worlds.new("mine") if has_world else None
    before = counts()
    world_preview.show(scene, picture(128), Matrix.Identity(4))
    world_preview.show(scene, picture(200), Matrix.Identity(4))
    (texture,) = (node for node in scene.world.node_tree.nodes if node.bl_idname == "ShaderNodeTexEnvironment")
    shown = pixels.read(texture.image)
    assert shown.encoding == "srgb"
    np.testing.assert_allclose(shown.pixels[0, 0], (1, 0, 0))
    np.testing.assert_allclose(shown.pixels[4, 4], 200 / 255, atol=1e-3)
    world_preview.remove()
    assert scene.world == mine
    assert counts() == before
    world_preview.remove()


def test_preview_is_not_saved(addon: Jobs, scene, tmp_path: Path) -> None:
    scene.world = bpy.data.worlds.new("mine")
    world_preview.show(scene, picture(128), Matrix.Identity(4))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
    assert bpy.context.scene.world.name == "mine"
    assert counts() == (1, 0, 1)


def test_preview_restored_by_undo_is_removed(addon: Jobs, scene) -> None:
    scene.world = bpy.data.worlds.new("mine")
    bpy.ops.ed.undo_push(message="mine")
    world_preview.show(scene, picture(128), Matrix.Identity(4))
    bpy.data.objects.new("something", None)
    bpy.ops.ed.undo_push(message="something, during the job")
    world_preview.remove()
    bpy.context.scene.world = bpy.data.worlds.new("result")
    bpy.ops.ed.undo_push(message="result")
    bpy.ops.ed.undo()
    assert "something" in bpy.data.objects
    assert bpy.context.scene.world.name == "mine"
    bpy.ops.ed.redo()
    assert bpy.context.scene.world.name == "result"


# Masks


def test_new_mask_shows_the_darkened_panorama(saved: Path) -> None:
    scene, path = bpy.context.scene, saved / "panoramas" / "x.exr"
    panoramas.write(path, encoded())
    with pytest.raises(RuntimeError, match="no HDRI"):
        bpy.ops.panoform.paint_mask()
    panoramas.show(scene, path, Matrix.Identity(4))
    scene.panoform.engine = "STARTER"
    with pytest.raises(RuntimeError, match=r"need FLUX\.1-dev"):
        bpy.ops.panoform.paint_mask()
    scene.panoform.engine = "FLUX"
    assert bpy.ops.panoform.paint_mask() == {"FINISHED"}
    painted = scene.panoform.edit.mask
    assert tuple(painted.size) == (64, 32)
    assert 0.1 < pixels.raw(painted)[..., :3].max() < 0.5
    assert not mask.from_image(painted).any(), "nothing is painted yet"
    array = pixels.raw(painted).copy()
    array[4:8, 60:] = array[4:8, :3] = 1
    painted.pixels.foreach_set(array[::-1].ravel())
    found = mask.from_image(painted)
    assert found.dtype == np.uint8
    assert found.shape == (32, 64, 1)
    assert found.sum() == 4 * 7
    assert found[4:8, 60:].all()
