"""Using a picture file: what it is offered for, and what that changes in the scene."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from captured import from_world
from PIL import Image

from panoform.blender_addon.capture import pixels
from panoform.blender_addon.open_file import menus, operators
from panoform.blender_addon.scene import world
from panoform.shared.protocol.errors import PanoramaError

pytestmark = pytest.mark.usefixtures("addon")

INTERIOR = Path(bpy.utils.system_resource("DATAFILES", path="studiolights/world")) / "interior.exr"


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    folder = tmp_path / "Möbel und Licht"
    folder.mkdir()
    return Path(shutil.copy(INTERIOR, folder / "Höfe 1.exr"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "ein Foto.png"
    Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)).save(path)
    return path


def use(path: Path, what: str) -> None:
    bpy.ops.panoform.use_file(filepath=str(path), use=what)


def test_size_decides_the_uses(panorama: Path, photo: Path, tmp_path: Path) -> None:
    assert [entry[0] for entry in operators.uses(panorama)] == ["WORLD", "PERCEIVE"]
    assert [entry[0] for entry in operators.uses(photo)] == ["GENERATE", "TEXTURE"]
    text = tmp_path / "a.png"
    text.write_text("no picture")
    with pytest.raises(PanoramaError):
        operators.uses(text)


def test_panorama_becomes_the_world_as_blender_shows_it(scene: bpy.types.Scene, panorama: Path) -> None:
    own = bpy.data.worlds.new("mine")
    scene.world = own
    use(panorama, "WORLD")
    shown = from_world(scene).panorama
    expected = pixels.read_with_alpha(bpy.data.images.load(str(INTERIOR)), 1)[0]
    assert shown.encoding == expected.encoding == "linear"
    np.testing.assert_array_equal(shown.pixels, expected.pixels)
    world.restore(scene)
    assert scene.world == own


def test_eight_bit_panorama_keeps_its_colours(scene: bpy.types.Scene, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    Image.fromarray(stored).save(tmp_path / "day.png")
    use(tmp_path / "day.png", "WORLD")
    shown = from_world(scene).panorama
    assert shown.encoding == "srgb"
    np.testing.assert_allclose(shown.pixels[..., :3] * 255, stored, atol=0.01)


def test_picture_is_given_to_generate_and_texture_and_loaded_once(scene: bpy.types.Scene, photo: Path) -> None:
    use(photo, "GENERATE")
    use(photo, "TEXTURE")
    (image,) = bpy.data.images
    assert (scene.panoform.generate.of, scene.panoform.generate.image) == ("PICTURE", image)
    assert scene.panoform.texture.reference == image
    assert Path(image.filepath) == photo


@pytest.mark.parametrize("what", ["WORLD", "PERCEIVE", "GENERATE", "TEXTURE"])
def test_missing_or_broken_file_changes_nothing(scene: bpy.types.Scene, tmp_path: Path, what: str) -> None:
    broken = tmp_path / "broken.exr"
    broken.write_bytes(INTERIOR.read_bytes()[:600])
    before, settings = scene.world, scene.panoform
    source = settings.source
    for path in (tmp_path / "none.exr", broken):
        with pytest.raises(RuntimeError, match=path.name):
            use(path, what)
    assert scene.world == before
    assert (settings.source, settings.filepath) == (source, "")
    assert not bpy.data.images


def test_picture_is_read_as_its_file_is_now(scene: bpy.types.Scene, photo: Path) -> None:
    use(photo, "GENERATE")
    for change in (lambda _image: None, lambda image: image.pack()):
        image = scene.panoform.generate.image
        assert image.pixels[0] >= 0  # decoded
        change(image)
        stored = np.full((48, 64, 3), 10 + 20 * len(bpy.data.images), np.uint8)
        Image.fromarray(stored).save(photo)
        use(photo, "GENERATE")
        np.testing.assert_allclose(scene.panoform.generate.image.pixels[0], stored[0, 0, 0] / 255, atol=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_name_that_is_not_utf_8(scene: bpy.types.Scene, photo: Path) -> None:
    path = photo.with_name("f\udcff.png")
    photo.rename(path)
    use(path, "TEXTURE")
    assert scene.panoform.texture.reference is not None


def test_dropping_needs_a_window(scene: bpy.types.Scene, photo: Path) -> None:
    with pytest.raises(RuntimeError, match="Only available in a window"):
        bpy.ops.panoform.drop_file(filepath=str(photo))


def test_photo_is_no_world(scene: bpy.types.Scene, photo: Path) -> None:
    with pytest.raises(RuntimeError, match="not 2:1"):
        use(photo, "WORLD")
    assert not bpy.data.images


def test_handler_and_menu_are_registered(scene: bpy.types.Scene) -> None:
    assert bpy.types.FileHandler.bl_rna_get_subclass_py("PANOFORM_FH_picture") is menus.PANOFORM_FH_picture
    assert {".exr", ".hdr", ".jpg"} <= set(menus.PANOFORM_FH_picture.bl_file_extensions.split(";"))
