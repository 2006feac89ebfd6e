"""generate and edit in bpy, with the real backend in its own process and tests/backend's tiny FLUX."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import bpy
import cycles_truth as cycles
import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.blender_addon.capture import pixels, render, sources
from panoform.blender_addon.generate import gallery, mask, operators, panoramas
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.imaging.colour import linear_from_srgb
from panoform.shared.jobs.generate import Recipe

SMALL = {"height": 256, "num_inference_steps": 2, "seed": 3, "measure_light": False}


@pytest.fixture
def flux(addon: Jobs, tiny_flux, tiny_adapters) -> Jobs:
    """Return the add-on's jobs, with the tiny FLUX set up."""
    chosen = bpy.context.preferences.addons["panoform"].preferences
    chosen.flux_model, chosen.flux_adapters = str(tiny_flux), str(tiny_adapters)
    chosen.device, chosen.dtype = "cpu", "fp32"
    return addon


@pytest.fixture
def saved(scene, tmp_path: Path) -> Path:
    """Save the .blend in a folder with non-ASCII characters and return the folder."""
    folder = tmp_path / "Zoë's scene"
    folder.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "scene.blend"))
    return folder


def generate(lora: Path, **options) -> None:
    assert bpy.ops.panoform.generate(**({"prompt": "a stone yard", "lora": str(lora)} | SMALL | options)) == {
        "FINISHED"
    }


def edit(lora: Path, **options) -> None:
    assert bpy.ops.panoform.edit(**({"prompt": "a red door", "lora": str(lora)} | SMALL | options)) == {"FINISHED"}


def read(path: Path) -> np.ndarray:
    image = oiio.ImageBuf(str(path))
    return np.asarray(image.get_pixels(oiio.FLOAT))


def light(height: int = 256) -> np.ndarray:
    """Return linear light with a sun and no two equal pixels."""
    array = np.random.default_rng(0).uniform(0.02, 1.5, (height, 2 * height, 3)).astype(np.float32)
    array[40, 80] = 5000
    return array


def image_of(array: np.ndarray, name: str, path: Path) -> bpy.types.Image:
    """Write an image file and open it."""
    height, width, channels = array.shape
    buffer = oiio.ImageBuf(oiio.ImageSpec(width, height, channels, oiio.FLOAT if path.suffix == ".exr" else oiio.UINT8))
    buffer.set_pixels(oiio.ROI(), array)
    assert buffer.write(str(path)), buffer.geterror()
    image = bpy.data.images.load(str(path))
    image.name = name
    return image


def show(image: bpy.types.Image, turn: float = 0.0) -> bpy.types.World:
    """Make the image the scene's world, rotated about Z."""
    from mathutils import Matrix

    from panoform.blender_addon.scene import world

    shown = world.create("mine", image, Matrix.Rotation(turn, 4, "Z"))
    bpy.context.scene.world = shown
    return shown


# Generate


@pytest.mark.slow
def test_prompt_generates_the_world_and_a_file_with_recipe(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    mine = bpy.context.scene.world = bpy.data.worlds.new("mine")
    generate(tiny_lora)
    path = saved / "panoramas" / "a stone yard.exr"
    assert {file.name for file in path.parent.iterdir()} == {path.name, "a stone yard.json"}
    scene = bpy.context.scene
    assert scene.world.name == "Panoform a stone yard"
    assert mine.name in bpy.data.worlds
    image, turn = sources.world_image(scene)
    assert image.filepath == "//panoramas/a stone yard.exr"
    assert np.allclose(turn, np.eye(4))
    recipe = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Recipe)
    assert (recipe.kind, recipe.settings.prompt, recipe.settings.seeds) == ("words", "a stone yard", (3,))
    assert recipe.settings.height == 256
    # Other programs read the file, it has the recipe, and its pixels equal those in Blender.
    buffer = oiio.ImageBuf(str(path))
    assert buffer.nativespec().format.basetype == oiio.FLOAT
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside.pop("file_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(buffer.spec().getattribute("panoform")) == beside
    assert read(path).shape == (256, 512, 3)
    np.testing.assert_array_equal(pixels.read(image).pixels, read(path))
    assert not flux.results, "results on disk are not kept in memory"


@pytest.mark.slow
def test_second_run_overwrites_nothing_and_is_reproducible(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    generate(tiny_lora)
    generate(tiny_lora)
    folder = saved / "panoramas"
    assert {file.name for file in folder.glob("*.exr")} == {"a stone yard.exr", "a stone yard 2.exr"}
    assert np.array_equal(read(folder / "a stone yard.exr"), read(folder / "a stone yard 2.exr"))


@pytest.mark.slow
def test_named_file_is_written(flux: Jobs, tiny_lora: Path, tmp_path: Path) -> None:
    generate(tiny_lora, out=str(tmp_path / "mine.exr"), hdr=False)
    assert {file.name for file in tmp_path.iterdir()} == {"mine.exr", "mine.json"}
    assert read(tmp_path / "mine.exr").max() <= 1


@pytest.mark.slow
def test_variations_are_in_the_gallery_and_the_first_is_the_world(
    flux: Jobs, saved: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    generate(tiny_lora, count=3)
    scene = bpy.context.scene
    assert {entry.path.stem for entry in gallery.entries(scene)} == {"a stone yard", "a stone yard 2", "a stone yard 3"}
    assert [entry.recipe.settings.seeds for entry in gallery.entries(scene) if entry.path.stem.endswith("3")] == [(5,)]
    assert gallery.active(scene).path.stem == "a stone yard"
    made = {3: read(saved / "panoramas" / "a stone yard.exr"), 4: read(saved / "panoramas" / "a stone yard 2.exr")}
    assert not np.array_equal(made[3], made[4])

    generate(tiny_lora, count=2, out=str(tmp_path / "mine.exr"))
    assert {file.name for file in tmp_path.glob("mine*.exr")} == {"mine-3.exr", "mine-4.exr"}
    assert np.array_equal(read(tmp_path / "mine-4.exr"), made[4]), "the result of a seed does not depend on other seeds"


@pytest.mark.slow
def test_panoramas_of_an_unsaved_blend_are_saved_in_the_folder_of_the_addon(flux: Jobs, tiny_lora: Path) -> None:
    assert not bpy.data.filepath
    folder = panoramas.folder(bpy.context.scene)
    generate(tiny_lora)
    image, _ = sources.world_image(bpy.context.scene)
    assert Path(image.filepath).parent == folder
    assert folder.parent == Path(bpy.context.preferences.addons["panoform"].preferences.folder)


@pytest.mark.slow
def test_picture_is_outpainted(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    red = np.zeros((60, 80, 3), np.float32)
    red[..., 0] = 1
    image_of(red, "photo.png", saved / "photo.png")
    generate(tiny_lora, prompt="", image="photo.png", fov=math.radians(60), yaw=math.radians(90), hdr=False)
    path = saved / "panoramas" / "photo.exr"
    made = read(path)
    # A quarter of the way from the left edge is +Y, where the picture's camera looked.
    np.testing.assert_allclose(made[128, 128], (1, 0, 0), atol=0.02)
    assert np.abs(made[128, 384] - (1, 0, 0)).max() > 0.1
    recipe = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Recipe)
    assert (recipe.kind, recipe.source) == ("picture", "photo.png")
    assert (recipe.view.fov, recipe.view.yaw) == pytest.approx((60, 90))


@pytest.mark.slow
def test_camera_view_is_outpainted_in_its_direction(flux: Jobs, saved: Path, tiny_lora: Path, monkeypatch) -> None:
    monkeypatch.setattr(render, "VIEW_SIDE_PX", 64)
    monkeypatch.setattr(operators, "RENDER_SAMPLES", 1)
    scene = bpy.context.scene
    scene.cycles.use_denoising = False
    bpy.ops.mesh.primitive_cube_add(size=2, location=(0, 5, 0))
    glow = bpy.data.materials.new("glow")
    cycles.use_nodes(glow)
    principled = glow.node_tree.nodes["Principled BSDF"]
    principled.inputs["Emission Color"].default_value = (0, 1, 0, 1)
    principled.inputs["Emission Strength"].default_value = 1
    principled.inputs["Base Color"].default_value = (0, 0, 0, 1)
    bpy.context.object.data.materials.append(glow)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.rotation_euler = (math.pi / 2, 0, 0)  # towards +Y
    scene.collection.objects.link(camera)
    scene.camera = camera
    bpy.context.view_layer.update()
    before = {kind: len(getattr(bpy.data, kind)) for kind in ("scenes", "objects", "cameras")}
    generate(tiny_lora, prompt="", use_camera=True, hdr=False)
    assert {kind: len(getattr(bpy.data, kind)) for kind in before} == before
    image, _ = sources.world_image(bpy.context.scene)
    assert pixels.read(image).pixels[128, 128].argmax() == 1
    np.testing.assert_allclose(pixels.read(image).pixels[128, 128], (0, 1, 0), atol=0.05)
    assert Path(image.filepath).stem == "Scene"


@pytest.mark.slow
def test_unset_properties_come_from_the_panel(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    settings = bpy.context.scene.panoform.generate
    settings.prompt, settings.size, settings.lora = "fog", "512", str(tiny_lora)
    bpy.context.scene.panoform.quality = "draft"
    settings.of, settings.seed, settings.new_seed, settings.measure_light = "WORDS", 9, False, False
    assert bpy.ops.panoform.generate() == {"FINISHED"}
    recipe = gallery.active(bpy.context.scene).recipe
    assert (recipe.settings.prompt, recipe.settings.height, recipe.settings.measure_light) == ("fog", 512, False)
    assert (recipe.settings.num_inference_steps, recipe.settings.seeds) == (8, (9,))


@pytest.mark.slow
def test_random_seed_is_stored_in_the_panel(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    options = SMALL.copy()
    del options["seed"]
    settings = bpy.context.scene.panoform.generate
    seeds = []
    for _ in range(2):
        assert bpy.ops.panoform.generate(prompt="fog", lora=str(tiny_lora), **options) == {"FINISHED"}
        seeds.append(settings.seed)
        assert gallery.active(bpy.context.scene).recipe.settings.seeds == (settings.seed,)
    assert seeds[0] != seeds[1]


@pytest.mark.slow
def test_odd_height_is_rounded_and_reported(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    generate(tiny_lora, height=261)
    recipe = gallery.active(bpy.context.scene).recipe
    assert recipe.size == (256, 512)
    assert "rounded to 256" in recipe.notices[0]


# Edit


@pytest.mark.slow
def test_only_masked_pixels_change(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    show(image_of(light(), "sky", saved / "sky.exr"), turn=1.0)
    painted = mask.create(bpy.data.images["sky"])
    assert not mask.from_image(painted).any(), "the new mask is empty"
    white = np.zeros((256, 512), bool)
    white[100:140, -20:] = white[100:140, :30] = True
    flat = np.empty(256 * 512 * 4, np.float32)
    painted.pixels.foreach_get(flat)
    flat.reshape(256, 512, 4)[::-1][white] = 1
    painted.pixels.foreach_set(flat)
    edit(tiny_lora, mask=painted.name)
    image, turn = sources.world_image(bpy.context.scene)
    assert Path(image.filepath).name == "a red door.exr"
    made = pixels.read(image).pixels
    assert np.array_equal(made[~white], light()[~white])
    assert (made[white] != light()[white]).any(axis=-1).mean() > 0.9
    np.testing.assert_allclose(turn.to_euler().z, 1.0, atol=1e-5)
    assert np.array_equal(read(saved / "sky.exr"), light()), "the user's file is unchanged"
    recipe = gallery.active(bpy.context.scene).recipe
    assert (recipe.kind, recipe.source, recipe.strength) == ("edit", "sky", 1.0)
    assert recipe.turn == pytest.approx((0, 0, math.degrees(1)), abs=1e-3)


@pytest.mark.slow
def test_transparent_pixels_are_filled(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    rgba = np.ones((256, 512, 4), np.float32)
    rgba[..., :3] = np.random.default_rng(1).uniform(0.1, 0.9, (256, 512, 3))
    rgba[:, 300:, 3] = 0
    show(image_of(rgba, "half.png", saved / "half.png"))
    edit(tiny_lora, mode="EXTEND")
    image, _ = sources.world_image(bpy.context.scene)
    made = pixels.read(image).pixels
    before = linear_from_srgb(np.rint(rgba[..., :3] * 255) / 255)
    np.testing.assert_allclose(made[:, :300], before[:, :300], atol=1e-6)
    recipe = gallery.active(bpy.context.scene).recipe
    assert recipe.extend


@pytest.mark.slow
def test_variation_needs_no_prompt_and_no_mask(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    show(image_of(light(), "sky", saved / "sky.exr"))
    edit(tiny_lora, prompt="", mode="VARY", strength=0.5)
    recipe = gallery.active(bpy.context.scene).recipe
    assert recipe.strength == 0.5
    assert gallery.active(bpy.context.scene).path.name == "sky variation.exr"


# Errors are reported and leave world and files unchanged


def check_rejected(message: str, operator=None, **options) -> None:
    scene = bpy.context.scene
    folder = panoramas.folder(scene)
    before = scene.world, len(bpy.data.worlds), len(bpy.data.images), len(bpy.data.scenes)
    files = sorted(folder.iterdir()) if folder.exists() else None
    with pytest.raises(RuntimeError, match=message):
        (operator or bpy.ops.panoform.generate)(**(SMALL | options))
    assert (scene.world, len(bpy.data.worlds), len(bpy.data.images), len(bpy.data.scenes)) == before
    assert (sorted(folder.iterdir()) if folder.exists() else None) == files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "word " * 10_000}, "characters"),
        ({"prompt": "x", "height": 100_000}, "height"),
        ({"prompt": "x", "method": "lora"}, "No LoRA"),
        ({"prompt": "x", "lora": "/no/lora/here.safetensors"}, "no LoRA"),
        ({"prompt": "x", "num_inference_steps": 1000}, "steps"),
        ({"prompt": "x", "seed": -5}, "seed is -5"),
        ({"prompt": "x", "count": 17}, "17 seeds"),
        ({"prompt": "x", "count": 0}, "0 seeds"),
        ({"prompt": "x", "true_cfg_scale": 90.0}, "True guidance"),
        ({"prompt": "x", "out": "/tmp/x.png"}, "EXR"),
        ({"prompt": "x", "out": "/no/folder/x.exr"}, "no folder"),
        ({"image": "nope.png"}, "no image named"),
        ({"use_camera": True}, "no camera"),
    ],
)
def test_invalid_input_is_reported(flux: Jobs, saved: Path, options: dict, message: str) -> None:
    check_rejected(message, **options)
    assert flux.failure is not None


def test_user_files_are_not_overwritten(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    panorama, own = saved / "world.exr", saved / "notes.json"
    image_of(light(), "world", panorama)
    image_of(np.ones((256, 512, 3), np.float32), "mask", saved / "mask.exr")
    own.write_text("[]")
    before = panorama.read_bytes()
    change = {"image": "world", "mask": "mask", "prompt": "x", "lora": str(tiny_lora)}
    for out in (panorama, saved / "mask.exr"):
        check_rejected("would replace", bpy.ops.panoform.edit, **change, out=str(out))
    check_rejected("would replace", prompt="", image="world", fov=1.0, out=str(panorama))
    check_rejected("not a result of Panoform", prompt="x", out=str(saved / "notes.exr"))
    (saved / "other.exr").write_bytes(b"mine")
    check_rejected("not a result of Panoform", prompt="x", out=str(saved / "other.exr"))
    assert (saved / "other.exr").read_bytes() == b"mine"
    assert panorama.read_bytes() == before
    assert own.read_text() == "[]"


@pytest.mark.slow
def test_lora_of_another_model_is_rejected(flux: Jobs, saved: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    foreign = tmp_path / "sdxl.safetensors"
    save_file({"unet.up.lora_A.weight": np.zeros((4, 64), np.float32)}, foreign)
    check_rejected("sdxl", prompt="x", lora=str(foreign))


def test_picture_without_field_of_view_is_rejected(flux: Jobs, saved: Path) -> None:
    image_of(np.full((32, 48, 3), 0.5, np.float32), "photo", saved / "photo.png")
    check_rejected("field of view", image="photo")
    check_rejected("field of view", image="photo", fov=3.0)


def test_unsupported_camera_is_rejected(flux: Jobs, saved: Path) -> None:
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    camera.data.type = "ORTHO"
    check_rejected("not a perspective camera", use_camera=True)
    camera.data.type, camera.data.shift_x = "PERSP", 0.2
    check_rejected("shifted", use_camera=True)


def test_prompt_and_edit_without_flux_are_rejected(addon: Jobs, saved: Path) -> None:
    check_rejected("Prompts need FLUX", prompt="a yard")
    check_rejected("Edits need FLUX", bpy.ops.panoform.edit, prompt="a yard")


def test_invalid_edits_are_rejected(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    change = bpy.ops.panoform.edit
    options = {"prompt": "a door", "lora": str(tiny_lora)}
    check_rejected("no HDRI", change, **options)
    show(image_of(light(), "sky", saved / "sky.exr"))
    check_rejected("No mask", change, **options)
    check_rejected("No mask", change, mode="EXTEND", **options)
    check_rejected("no image named", change, mask="nope", **options)
    check_rejected("needs a prompt", change, **options | {"prompt": ""})
    check_rejected("strength", change, mode="VARY", strength=2.0, **options)
    for name, array, message in (
        ("small", np.ones((128, 256, 3), np.float32), "256 × 128"),
        ("empty", np.zeros((256, 512, 3), np.float32), "empty"),
    ):
        image_of(array, name, saved / f"{name}.png")
        check_rejected(message, change, mask=name, **options)
    full = image_of(np.ones((256, 512, 3), np.float32), "full", saved / "full.png")
    check_rejected("nothing to extend", change, mode="EXTEND", mask=full.name, **options)


@pytest.mark.slow
def test_result_is_kept_if_the_folder_is_not_writable(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    (saved / "panoramas").write_text("a file")
    with pytest.raises(RuntimeError, match="can't be written"):
        generate(tiny_lora)
    (result,) = flux.results
    assert not result.built
    (saved / "panoramas").unlink()
    assert bpy.ops.panoform.build_result(index=0) == {"FINISHED"}
    assert (saved / "panoramas" / "a stone yard.exr").exists()
    assert not flux.results


# The gallery


@pytest.mark.slow
def test_gallery_switches_worlds_and_survives_a_restart(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    generate(tiny_lora, prompt="one")
    first = bpy.context.scene.world
    generate(tiny_lora, prompt="two", seed=4)
    scene = bpy.context.scene
    assert [entry.path.stem for entry in gallery.entries(scene)] == ["two", "one"]
    settings = scene.panoform.generate
    assert settings.gallery == "two.exr"
    settings.gallery = "one.exr"
    assert scene.world == first, "the existing world is used again"
    assert settings.gallery == "one.exr"
    (saved / "panoramas" / "notes.json").write_text('{"mine": 1}')  # a foreign file
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    assert not gallery.entries(bpy.context.scene) or bpy.context.scene.panoform.generate.gallery == ""
    bpy.ops.wm.open_mainfile(filepath=str(saved / "scene.blend"))
    settings = bpy.context.scene.panoform.generate
    assert settings.gallery == "one.exr"
    settings.gallery = "two.exr"
    assert Path(sources.world_image(bpy.context.scene)[0].filepath).name == "two.exr"


@pytest.mark.slow
def test_generated_panorama_can_be_perceived(flux: Jobs, saved: Path, tiny_lora: Path) -> None:
    generate(tiny_lora)
    assert bpy.ops.panoform.perceive(
        source="WORLD", maps={"DISTANCE"}, quality="draft", engine="STARTER", kind="DOME"
    ) == {"FINISHED"}
    assert bpy.data.objects.get("a stone yard dome") is not None
