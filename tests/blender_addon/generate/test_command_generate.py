"""`blender --command panoform generate` and `edit`, called as Blender calls them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import bpy
import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.blender_addon import command
from panoform.blender_addon.capture import pixels, sources
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.jobs.generate import Recipe

SMALL = ["--height", "256", "--steps", "2", "--no-measure-light"]


@pytest.fixture
def set_up(addon: Jobs, tiny_flux, tiny_adapters) -> Jobs:
    chosen = bpy.context.preferences.addons["panoform"].preferences
    chosen.flux_model, chosen.flux_adapters = str(tiny_flux), str(tiny_adapters)
    chosen.device, chosen.dtype = "cpu", "fp32"
    return addon


def write(path: Path, array: np.ndarray) -> Path:
    height, width, channels = array.shape
    kind = oiio.FLOAT if path.suffix == ".exr" else oiio.UINT8
    image = oiio.ImageBuf(oiio.ImageSpec(width, height, channels, kind))
    image.set_pixels(oiio.ROI(), array.astype(np.float32))
    assert image.write(str(path)), image.geterror()
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT))


def recipe(path: Path) -> Recipe:
    return msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Recipe)


@pytest.mark.slow
def test_panorama_is_generated_from_a_prompt_and_edited(set_up: Jobs, tiny_lora: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "schön.exr"
    code = command.run(
        ["generate", "a stone yard", "--out", str(out), "--seed", "1,2", "--lora", str(tiny_lora), *SMALL]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    first, second = tmp_path / "schön-1.exr", tmp_path / "schön-2.exr"
    assert {path.name for path in tmp_path.glob("*")} == {
        "schön-1.exr", "schön-1.json", "schön-2.exr", "schön-2.json"
    }  # fmt: skip
    assert recipe(second).settings.seeds == (2,)
    assert f"wrote {second}" in printed.out

    white = np.zeros((256, 512, 1), np.float32)
    white[100:150, 30:90] = 1
    mask = write(tmp_path / "mask.png", np.repeat(white, 3, axis=-1))
    edited = tmp_path / "edited.exr"
    arguments = ["edit", str(first), "a door", "--mask", str(mask), "--out", str(edited), "--lora", str(tiny_lora)]
    assert command.run([*arguments, *SMALL]) == 0, capsys.readouterr().err
    outside = white[..., 0] == 0
    assert np.array_equal(read(edited)[outside], read(first)[outside])
    assert (read(edited)[~outside] != read(first)[~outside]).any()
    assert recipe(edited).source == "schön-1"

    varied = tmp_path / "varied.exr"
    arguments = ["edit", str(first), "--strength", "0.5", "--out", str(varied), "--lora", str(tiny_lora)]
    assert command.run([*arguments, *SMALL]) == 0, capsys.readouterr().err
    assert recipe(varied).strength == 0.5


@pytest.mark.slow
def test_photo_is_outpainted(set_up: Jobs, tmp_path: Path, capsys) -> None:
    photo = write(tmp_path / "photo.png", np.full((30, 40, 3), (0, 0, 1)))
    out = tmp_path / "out.exr"
    arguments = ["generate", "--image", str(photo), "--fov", "65", "--pitch", "10", "--ldr", "--out", str(out), *SMALL]
    assert command.run(arguments) == 0, capsys.readouterr().err
    made = recipe(out)
    assert made.kind == "picture"
    assert (made.view.fov, made.view.pitch) == pytest.approx((65, 10))
    assert made.encoding == "srgb"
    np.testing.assert_allclose(read(out)[256 // 2 - 14, 256], (0, 0, 1), atol=0.02)


@pytest.mark.slow
def test_saved_scene_has_a_sun_lamp(set_up: Jobs, tiny_lora: Path, tmp_path: Path, capsys) -> None:
    light = np.full((256, 512, 3), 0.3, np.float32)
    light[60:64, 100:104] = 3000
    white = np.zeros((256, 512, 3), np.float32)
    white[200:220, 300:330] = 1
    sky, mask = write(tmp_path / "sky.exr", light), write(tmp_path / "mask.png", white)
    out, saved = tmp_path / "schön.exr", tmp_path / "lit.blend"
    arguments = ["edit", str(sky), "a door", "--mask", str(mask), "--lora", str(tiny_lora), "--out", str(out)]
    assert command.run([*arguments, *SMALL, "--save", str(saved), "--sun-lamp"]) == 0, capsys.readouterr().err
    assert read(out).max() == 3000
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    scene = bpy.context.scene
    assert [thing.name for thing in scene.objects if thing.type == "LIGHT"] == ["Panoform Sun"]
    image, _ = sources.world_image(scene)
    assert image.name == "schön without sun"
    assert image.packed_file
    assert pixels.read(image).pixels.max() < 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "--out", "x.exr"], 1, "prompt is empty"),
        (["generate", "a yard", "--out", "x.png"], 1, "EXR"),
        (["generate", "a yard", "--out", "none/x.exr"], 1, "no folder"),
        (["generate", "a yard"], 2, "--out"),
        (["generate", "a yard", "--out", "x.exr", "--sun-lamp"], 1, "--save"),
        (["generate", "a yard", "--out", "x.exr", "--save", "none/x.blend"], 1, "no folder"),
        (["generate", "a yard", "--out", "x.exr", "--method", "magic"], 2, "magic"),
        (["generate", "--image", "nope.jpg", "--out", "x.exr"], 1, "no file"),
        (["generate", "--image", "nope.jpg", "--fov", "200", "--out", "x.exr"], 1, "field of view is 200°"),
        (["generate", "a yard", "--height", "100", "--out", "x.exr"], 1, "height is 100"),
        (["generate", "a yard", "--seed", "many", "--out", "x.exr"], 2, "many"),
        (["generate", "a yard", "--seed=-5", "--out", "x.exr"], 1, "seed is -5"),
        (["generate", "a yard", "--seed", "1,4000000000", "--out", "x.exr"], 1, "seed is 4000000000"),
        (["edit", "nope.exr", "a door", "--out", "x.exr"], 1, "no file"),
        (["edit", "nope.exr", "--mask", "m.png", "--extend", "--out", "x.exr"], 1, "Give only one of them"),
        (["edit", "--out", "x.exr"], 2, "PANORAMA"),
    ],
)
def test_error_is_printed_once(set_up: Jobs, arguments, code, message, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run(arguments) == code
    ctypes.CDLL(None).fflush(None)  # Blender's own output
    printed = capfd.readouterr()
    count = (printed.out + printed.err).count(message)
    assert count == 1 if code == 1 else count, printed
    assert not list(tmp_path.iterdir())
