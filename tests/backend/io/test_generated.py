"""Generated panoramas in files, and by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.cli import main
from panoform.backend.io import generated, panoramas
from panoform.backend.io.encoding import encode_image
from panoform.backend.io.generated import Generated
from panoform.shared import panorama_file
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.generate import (
    MAX_HEIGHT,
    MAX_SEEDS,
    GenerateSettings,
    Recipe,
    View,
)
from panoform.shared.panorama_file import recipe_json
from panoform.shared.protocol import wire
from panoform.shared.protocol.errors import OutputError, SettingError


def recipe(encoding="linear"):
    return Recipe(
        panoform="0.1.0", kind="words", engine=EngineSettings(engine="flux"), model="m", adapters="",
        settings=GenerateSettings(prompt="Höhle", seeds=(7,)), encoding=encoding, source="", size=(8, 16),
        notices=(), device="CPU", dtype="fp32", seconds=1.0, versions={},
    )  # fmt: skip


def test_exr_values_are_exact(tmp_path):
    light = np.random.default_rng(0).random((8, 16, 3), np.float32) ** 8 * 5000
    path = tmp_path / "höhle 1.exr"
    generated.write(path, generated.encode(Generated(light, recipe())))
    pixels, encoding = panoramas.read(path)
    assert encoding == "linear"
    assert np.array_equal(pixels, light)
    assert panorama_file.read_recipe(tmp_path / "höhle 1.json") == recipe()
    header = oiio.ImageInput.open(str(path)).spec().getattribute(generated.ATTRIBUTE)
    assert msgspec.json.decode(header, type=Recipe) == recipe()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["höhle 1.exr", "höhle 1.json"]


def test_recipes_of_earlier_versions_measure_no_light(tmp_path):
    """Settings that they lack have the values with which their panoramas were made, not those of new requests."""
    path = tmp_path / "p.exr"
    generated.write(path, generated.encode(Generated(np.ones((8, 16, 3), np.float32), recipe())))
    stored = msgspec.json.decode(path.with_suffix(".json").read_bytes())
    assert stored["settings"].pop("measure_light") is True
    path.with_suffix(".json").write_bytes(msgspec.json.encode(stored))
    assert panorama_file.read_recipe(path.with_suffix(".json")).settings.measure_light is False


def test_largest_reply_can_be_sent():
    """An EXR of noise, which can't be compressed, adds the recipe and less than 0.5 % to the size of the pixels."""
    pixels = np.random.default_rng(0).integers(0, 2**31, (256, 512, 3)).astype(np.uint32).view(np.float32)
    size = generated.encode(Generated(np.nan_to_num(pixels), recipe())).data.nbytes - len(recipe_json(recipe()))
    assert size < pixels.nbytes * 1.005
    assert MAX_SEEDS * 2 * MAX_HEIGHT**2 * 3 * 4 * 1.005 < wire.MAX_ARRAY_BYTES


def test_png_and_exr_of_an_srgb_panorama_are_equal(tmp_path):
    picture = (np.random.default_rng(0).integers(0, 256, (8, 16, 3)) / 255).astype(np.float32)
    for suffix in ("png", "exr"):
        generated.write(tmp_path / f"p.{suffix}", generated.encode(Generated(picture, recipe("srgb")), suffix))
    png, encoding = panoramas.read(tmp_path / "p.png")
    assert encoding == "srgb"
    assert np.abs(png - picture).max() < 1e-6
    light, _ = panoramas.read(tmp_path / "p.exr")
    shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(shown - picture).max() < 1e-5
    image = oiio.ImageInput.open(str(tmp_path / "p.png"))
    assert msgspec.json.decode(image.spec().getattribute(generated.ATTRIBUTE), type=Recipe) == recipe("srgb")


def test_invalid_path_or_format_is_rejected(tmp_path):
    with pytest.raises(OutputError, match="neither"):
        generated.check_path(tmp_path / "p.jpg", (0,))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        generated.check_path(tmp_path / "file" / "p.exr", (0,))
    with pytest.raises(SettingError, match="light"):
        generated.encode(Generated(np.zeros((8, 16, 3), np.float32), recipe()), "png")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(OutputError, match="no recipe"):
        panorama_file.read_recipe(tmp_path / "x.json")
    with pytest.raises(OutputError, match=r"not a result of Panoform: x.json"):
        generated.check_path(tmp_path / "x.exr", (0,))
    (tmp_path / "folder.exr").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        generated.check_path(tmp_path / "folder.exr", (0,))
    generated.write(tmp_path / "p.exr", black())
    generated.check_path(tmp_path / "p.exr", (0,))  # a generated panorama may be replaced
    with pytest.raises(OutputError, match="is a source"):
        generated.check_path(tmp_path / "p.exr", (0,), None, tmp_path / "folder.exr" / ".." / "p.exr")
    generated.check_path(tmp_path / "p.exr", (0, 1), tmp_path / "p.exr")  # the files would be p-0 and p-1
    (tmp_path / "p-1.json").write_text("{}")
    with pytest.raises(OutputError, match=r"not a result of Panoform: p-1.json"):
        generated.check_path(tmp_path / "p.exr", (0, 1))


def write_image(path, pixels, colorspace):
    path.write_bytes(encode_image(path.name, pixels, colorspace))


def black():
    return generated.encode(Generated(np.zeros((8, 16, 3), np.float32), recipe()))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["p.exr", "p.json"])
def test_user_file_is_not_replaced_without_overwrite(tmp_path, name):
    path = tmp_path / "p.exr"
    (tmp_path / name).write_bytes(b"mine")
    for call in (lambda: generated.check_path(path, (7,)), lambda: generated.write(path, black())):
        with pytest.raises(OutputError, match=f"not a result of Panoform: {name}") as caught:
            call()
        assert "--overwrite" in caught.value.hint
    assert contents(tmp_path) == {name: b"mine"}
    generated.check_path(path, (7,), overwrite=True)
    generated.write(path, black(), overwrite=True)
    assert panoramas.read(path)[0].shape == (8, 16, 3)


@pytest.mark.parametrize("format", ["exr", "png"])
def test_panorama_without_its_record_is_not_replaced(tmp_path, format):
    """Other programs keep the recipe in its header when they save it with changes, under another name."""
    path = tmp_path / f"p.{format}"
    one = generated.encode(Generated(np.zeros((8, 16, 3), np.float32), recipe("srgb")), format)
    generated.write(path, one)
    (tmp_path / "p.json").unlink()
    with pytest.raises(OutputError, match=f"not a result of Panoform: p.{format}"):
        generated.write(path, one)
    assert not (tmp_path / "p.json").exists()


def test_panorama_that_was_changed_since_is_not_replaced(tmp_path):
    path = tmp_path / "p.exr"
    generated.write(path, black())
    write_image(path, np.ones((8, 16, 3), np.float32), "Linear")
    with pytest.raises(OutputError, match=r"not a result of Panoform: p.exr"):
        generated.write(path, black())
    generated.write(path, black(), overwrite=True)
    generated.write(path, black())


def test_image_without_a_recipe_is_not_replaced(tmp_path):
    write_image(tmp_path / "p.exr", np.zeros((8, 16, 3), np.float32), "Linear")
    with pytest.raises(OutputError, match=r"not a result of Panoform: p.exr"):
        generated.check_path(tmp_path / "p.exr", (7,))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["p.exr", "p.json"])
def test_source_is_not_replaced_even_with_overwrite(tmp_path, name, overwrite):
    path, source = tmp_path / "p.exr", tmp_path / ".." / tmp_path.name / name
    generated.write(path, black())
    before = contents(tmp_path)
    for call in (
        lambda: generated.check_path(path, (7,), None, source, overwrite=overwrite),
        lambda: generated.write(path, black(), source, overwrite=overwrite),
    ):
        with pytest.raises(OutputError, match=f"{name} is a source"):
            call()
    assert contents(tmp_path) == before


@pytest.fixture
def flux(fast_flux, tiny_adapters, tiny_lora):
    return [
        "--engine", "flux", "--model", str(fast_flux), "--adapters", str(tiny_adapters), "--lora", str(tiny_lora),
        "--dtype", "fp32", "--height", "256", "--steps", "1", "--no-measure-light",
    ]  # fmt: skip


@pytest.mark.slow
def test_command_line_generates_and_edits(flux, tmp_path, capsys):
    out = tmp_path / "new folder" / "yard.exr"
    assert main.main(["generate", "a stone yard", "--out", str(out), "--seed", "3,4", "--json", *flux]) == 0
    recipes = json.loads(capsys.readouterr().out)
    assert [recipe["settings"]["seeds"] for recipe in recipes] == [[3], [4]]
    assert sorted(file.name for file in out.parent.iterdir()) == [
        "yard-3.exr", "yard-3.json", "yard-4.exr", "yard-4.json",
    ]  # fmt: skip
    before, _ = panoramas.read(out.with_stem("yard-3"))

    mask = np.zeros((256, 512, 3), np.float32)
    mask[100:150, 480:] = mask[100:150, :30] = 1
    write_image(tmp_path / "mask.png", mask, "sRGB")
    edited = tmp_path / "edited.exr"
    source = str(out.with_stem("yard-3"))
    command = ["edit", source, "a fountain", "--mask", str(tmp_path / "mask.png"), "--out", str(edited), *flux]
    assert main.main(command) == 0
    after, _ = panoramas.read(edited)
    changed = mask[..., 0] > 0
    assert np.array_equal(after[~changed], before[~changed])
    assert not np.array_equal(after[changed], before[changed])

    assert main.main([*command[: -len(flux) - 1], str(tmp_path / "edited.png"), *flux]) == 1
    assert "linear" in capsys.readouterr().err


@pytest.mark.slow
def test_command_line_outpaints_a_photo_and_extends_a_panorama(flux, tmp_path, capsys):
    picture = np.random.default_rng(0).random((60, 90, 3)).astype(np.float32)
    write_image(tmp_path / "photo.png", picture, "sRGB")
    command = ["generate", "--image", str(tmp_path / "photo.png"), "--out", str(tmp_path / "around.png"), *flux]
    assert main.main(command) == 1
    assert "--fov" in capsys.readouterr().err
    assert main.main([*command, "--fov", "65", "--yaw", "30"]) == 0
    around, encoding = panoramas.read(tmp_path / "around.png")
    assert (around.shape, encoding) == ((256, 512, 3), "srgb")
    assert panorama_file.read_recipe(tmp_path / "around.json").view == View(fov=65, yaw=30)

    again = ["generate", "--recipe", str(tmp_path / "around.json"), "--out", str(tmp_path / "again.png")]
    # The recipe names the weights, not the folders of this computer.
    for written in ("around.png", "around.json"):
        assert str(Path(flux[3]).parent).encode() not in (tmp_path / written).read_bytes()
    assert main.main([*again, "--image", str(tmp_path / "photo.png")]) == 1
    assert "Give its path (--model)" in capsys.readouterr().err
    other = tmp_path / Path(flux[7]).name
    other.write_bytes(b"another LoRA")
    again += flux[2:6]
    assert main.main([*again, "--lora", str(other), "--image", str(tmp_path / "photo.png")]) == 1
    assert "not the" in capsys.readouterr().err
    again += flux[6:8]
    assert main.main([*again, "--image", str(tmp_path / "photo.png")]) == 0
    assert np.array_equal(panoramas.read(tmp_path / "again.png")[0], around)
    assert main.main(again) == 1
    assert "photo.png" in capsys.readouterr().err
    assert main.main([*again, "--image", str(tmp_path / "around.png")]) == 1
    assert "not the picture" in capsys.readouterr().err

    part = np.concatenate([around, np.ones((256, 512, 1), np.float32)], axis=-1)
    part[:, 200:] = 0
    write_image(tmp_path / "part.png", part, "sRGB")
    command = ["edit", str(tmp_path / "part.png"), "a wood", "--out", str(tmp_path / "whole.png"), *flux]
    assert main.main([*command, "--extend"]) == 0
    whole, _ = panoramas.read(tmp_path / "whole.png")
    assert np.array_equal(whole[:, :200], around[:, :200])
    assert whole[:, 200:].std() > 0.01


@pytest.mark.slow
def test_command_line_edits_keep_values_outside_the_mask_exactly(flux, tmp_path, capsys):
    """Also values above 1, and colours outside Rec.709, which are clipped in the model's input."""
    light = np.random.default_rng(0).uniform(0.1, 2, (256, 512, 4)).astype(np.float32)
    light[10, 20, :3], light[30, 40, :3], light[..., 3] = 3000, (0.5, -0.05, 0.2), 1
    mask = np.zeros((256, 512, 3), np.float32)
    mask[100:150, 480:] = mask[100:150, :30] = 1
    source, mask_path, out = (tmp_path / name for name in ("light.exr", "mask.png", "out.exr"))
    write_image(source, light, "Linear")
    write_image(mask_path, mask, "sRGB")
    assert main.main(["edit", str(source), "a door", "--mask", str(mask_path), "--out", str(out), *flux]) == 0
    kept = mask[..., 0] == 0
    assert np.array_equal(panoramas.load(out)[0][kept], light[kept][:, :3])

    light[..., 3] = kept
    write_image(source, light, "Linear")
    assert main.main(["edit", str(source), "a door", "--extend", "--out", str(out), *flux]) == 0
    assert np.array_equal(panoramas.load(out)[0][kept], light[kept][:, :3])

    before = out.read_bytes()
    write_image(source, light[:, 2:], "Linear")  # within 1 % of 2:1, but an edit does not resize its source
    assert main.main(["edit", str(source), "a door", "--out", str(out), *flux]) == 1
    assert "510 × 256, not exactly 2:1" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x" * 5000], "5000 characters"),
        (["generate", "a yard", "--seed", ",".join(map(str, range(40)))], "40 seeds"),
        (["generate", "a yard", "--height", "5000"], "height"),
        (["generate", "a yard", "--engine", "starter"], "huggingface"),
        (["generate", "--image", "absent.jpg"], "no file"),
        (["edit", "absent.exr"], "no file"),
    ],
)
def test_command_line_rejects_invalid_arguments(arguments, message, tmp_path, capsys):
    assert main.main([*arguments, "--out", str(tmp_path / "x.exr")]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
