"""Generation from prompts and around pictures, with the real classes at tiny size and real text encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from generating import HEIGHT, LARGE, SIZE, changed, check_closed, generate
from safetensors.torch import save_file
from scipy.ndimage import distance_transform_edt

from panoform.backend.evaluation import seam_metrics
from panoform.backend.generation import job
from panoform.backend.geometry import projection
from panoform.backend.lighting import recovery
from panoform.backend.models.flux import checkpoints, loader
from panoform.shared.engines import EngineSettings
from panoform.shared.imaging import sphere
from panoform.shared.jobs.generate import GenerateSettings, Recipe, View, rounded
from panoform.shared.protocol.errors import (
    AdapterError,
    Cancelled,
    DeviceMemoryError,
    InputError,
    SettingError,
    WeightsError,
)

# Prompts


@pytest.mark.slow
def test_prompt_gives_one_panorama_per_seed(models, flux, prompt_settings, reporter):
    made = generate(models, flux, changed(prompt_settings, seeds=(1, 2)), reporter)
    assert [one.recipe.settings.seeds for one in made] == [(1,), (2,)]
    for one in made:
        assert one.panorama.shape == (HEIGHT, 2 * HEIGHT, 3)
        assert one.panorama.dtype == np.float32
        assert 0 <= one.panorama.min() < one.panorama.max() <= 1
        assert max(seam_metrics.poles(one.panorama)) < 0.5  # the rows at the poles are nearly one colour
    assert not np.array_equal(made[0].panorama, made[1].panorama)
    again = generate(models, flux, changed(prompt_settings, seeds=(2,)), reporter)[0]
    assert np.array_equal(again.panorama, made[1].panorama)


@pytest.mark.slow
def test_panoramas_stay_where_light_can_not_be_measured(models, flux, prompt_settings, reporter, monkeypatch):
    """A grey panorama with a white square is generated for each seed."""
    picture = np.full((HEIGHT, 2 * HEIGHT, 3), 0.4, np.float32)
    picture[30:34, 100:104] = 1

    def fail(*_):
        raise DeviceMemoryError("No memory.")

    monkeypatch.setattr(job, "_sample", lambda *_: picture)
    monkeypatch.setattr(recovery.perception, "perceive", fail)
    made = generate(models, flux, changed(prompt_settings, hdr=True, seeds=(1, 2)), reporter)
    assert [one.recipe.light for one in made] == [None, None]
    for one in made:
        assert one.recipe.notices == (f"{recovery.NOT_MEASURED} No memory.",)
        assert one.panorama.max() > 1


@pytest.mark.slow
def test_recipe_reproduces_the_panorama(models, flux, tiny_lora, reporter):
    """All defaults are resolved, and the recipe round-trips through JSON."""
    requested = GenerateSettings(
        prompt=" a yard ", height=125, lora=str(tiny_lora), num_inference_steps=2, seeds=(7,), hdr=False
    )
    one = generate(models, flux, msgspec.structs.replace(requested, height=133), reporter)[0]
    recipe = msgspec.json.decode(msgspec.json.encode(one.recipe), type=Recipe)
    used = recipe.settings
    assert (used.prompt, used.trigger) == ("a yard", "This is a panorama. The image shows")
    assert (used.guidance_scale, used.num_inference_steps, used.height, used.seeds) == (2.8, 2, 128, (7,))
    assert recipe.notices == ("The height 133 was rounded to 128, a multiple of 16.",)
    assert recipe.versions["diffusers"]
    # Weights are named without their folders.
    assert (recipe.engine.model, recipe.engine.adapters) == (Path(flux.model).name, Path(flux.adapters).name)
    engine = msgspec.structs.replace(recipe.engine, model=flux.model, adapters=flux.adapters)
    again = generate(models, engine, changed(used, lora=requested.lora), reporter)[0]
    assert np.array_equal(again.panorama, one.panorama)
    assert not again.recipe.notices


@pytest.mark.slow
def test_every_setting_changes_the_result(models, flux, prompt_settings, reporter):
    base = generate(models, flux, prompt_settings, reporter)[0].panorama
    for other in (
        {"prompt": "a yard of stone"},
        {"trigger": "360 degrees"},
        {"lora": ""},
        {"guidance_scale": 9.0},
        {"shift": 9.0},
        {"num_inference_steps": 3},
        {"negative_prompt": "fog", "true_cfg_scale": 3.0},
        {"seeds": (5,)},
        {"method": "lora"},
    ):
        assert not np.array_equal(
            generate(models, flux, changed(prompt_settings, **other), reporter)[0].panorama, base
        ), other
    assert np.array_equal(
        generate(models, flux, changed(prompt_settings, negative_prompt="fog"), reporter)[0].panorama, base
    )
    assert np.array_equal(generate(models, flux, prompt_settings, reporter)[0].panorama, base), "no setting persists"


@pytest.mark.slow
def test_omnix_generates_a_picture_and_outpaints_it(models, flux, prompt_settings, reporter, monkeypatch):
    monkeypatch.setattr("panoform.backend.generation.sampler.PICTURE_SIDE", 128)
    made = generate(models, flux, changed(prompt_settings, method="omnix", lora=None), reporter)[0]
    assert made.panorama.shape == (HEIGHT, 2 * HEIGHT, 3)
    assert (made.recipe.kind, made.recipe.adapters) == ("words", Path(flux.adapters).name)
    stages = [stage for stage, *_ in reporter.reported]
    assert stages.index("Picture") < stages.index("Panorama")


@pytest.mark.slow
def test_progress_is_complete_and_previews_are_reported(models, flux, prompt_settings, reporter):
    generate(models, flux, changed(prompt_settings, seeds=(0, 1)), reporter)
    done = [(stage, step, fraction) for stage, step, of, fraction, _ in reporter.reported if of]
    assert [stage for stage, *_ in done] == ["Panorama 1 of 2"] * 2 + ["Panorama 2 of 2"] * 2
    fractions = [fraction for *_, fraction in done]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    name, preview = reporter.previews[-1]
    assert name == "panorama"
    assert preview.dtype == np.uint8
    assert preview.shape == (HEIGHT, 2 * HEIGHT, 3)


@pytest.mark.slow
def test_recovering_highlights_changes_only_clipped_pixels(models, flux, prompt_settings, reporter):
    picture = generate(models, flux, prompt_settings, reporter)[0]
    light = generate(models, flux, changed(prompt_settings, hdr=True, sun_threshold=0.9), reporter)[0]
    assert (picture.recipe.encoding, light.recipe.encoding) == ("srgb", "linear")
    linear = np.where(
        picture.panorama <= 0.04045, picture.panorama / 12.92, ((picture.panorama + 0.055) / 1.055) ** 2.4
    )
    dark = picture.panorama.min(-1) < 0.9
    assert np.abs(light.panorama - linear)[dark].max() < 1e-5


@pytest.mark.slow
def test_large_panoramas_from_a_prompt_have_no_seam(models, flux, prompt_settings, reporter, in_windows):
    check_closed(generate(models, flux, changed(prompt_settings, **LARGE), reporter)[0].panorama)
    assert [stage for stage, _, of, *_ in reporter.reported if of] == ["Panorama", "Refining Panorama"]
    assert reporter.reported[-1][3] == 1


@pytest.mark.slow
def test_large_panoramas_around_a_picture_have_no_seam(models, flux, reporter, in_windows):
    picture = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    settings = GenerateSettings(**SIZE | LARGE)
    check_closed(generate(models, flux, settings, reporter, picture, View(fov=60))[0].panorama)


@pytest.mark.slow
def test_cancel_takes_effect_within_a_step_and_restores_the_model(
    models, flux, prompt_settings, reporter, stopping_reporter
):
    before = generate(models, flux, changed(prompt_settings, lora=""), reporter)[0].panorama
    with pytest.raises(Cancelled):
        generate(
            models, flux, prompt_settings, stopping_reporter(lambda stage, step: stage == "Panorama" and step == 1)
        )
    assert np.array_equal(generate(models, flux, changed(prompt_settings, lora=""), reporter)[0].panorama, before)


# Pictures


@pytest.mark.slow
def test_picture_is_projected_in_its_camera_direction(models, flux, reporter):
    panorama = 0.5 + 0.4 * sphere.directions(HEIGHT, 2 * HEIGHT)
    pose = {"yaw": 133.0, "pitch": 15.0, "roll": -8.0}
    picture = projection.picture_from_panorama(panorama, 240, 320, 65, **pose)
    made = generate(models, flux, GenerateSettings(**SIZE), reporter, picture, View(fov=65, **pose))[0]
    _, shown = projection.panorama_from_picture(picture, HEIGHT, 65, **pose)
    inner = shown & np.roll(shown, 8, 1) & np.roll(shown, -8, 1) & np.roll(shown, 8, 0) & np.roll(shown, -8, 0)
    assert inner.sum() > 500
    assert np.abs(made.panorama - panorama)[inner].max() < 0.01
    assert np.abs(made.panorama - panorama)[~shown].mean() > 0.05  # generated by the model
    assert made.recipe.kind == "picture"
    assert made.recipe.view == View(fov=65, **pose)
    assert len(made.recipe.source_sha256) == 64


@pytest.mark.slow
@pytest.mark.parametrize("pose", [{"yaw": 180.0, "roll": 20.0}, {"yaw": -60.0, "pitch": 75.0}], ids=["seam", "pole"])
def test_pixels_of_the_picture_are_kept(models, flux, reporter, pose):
    """The picture's pixels replace the model's; only its border is blended."""
    height = 256  # the border is 2 px wide then
    picture = np.random.default_rng(0).random((75, 100, 3)).astype(np.float32)
    made = generate(
        models, flux, GenerateSettings(**SIZE | {"height": height}), reporter, picture, View(fov=70, **pose)
    )[0].panorama
    own, shown = projection.panorama_from_picture(picture, height, 70, **pose)
    from_border_px = distance_transform_edt(np.concatenate([shown] * 3, axis=1))[:, 2 * height : 4 * height]
    inner, border = from_border_px >= 0.01 * height, (from_border_px > 0) & (from_border_px < 0.01 * height)
    assert np.array_equal(made[inner], own[inner])
    assert own[inner].std() > 0.05  # noise, which only the picture contains
    off = np.abs(made - own).mean(axis=-1)
    assert off[from_border_px == 1].mean() > 0.3 * off[~shown].mean()
    assert off[border].mean() < 0.8 * off[~shown].mean()


@pytest.mark.slow
def test_turning_the_camera_turns_the_panorama(models, flux, reporter):
    """The picture is centred in the model's input, independent of the camera."""
    picture = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    ahead, left = (
        generate(models, flux, GenerateSettings(**SIZE), reporter, picture, View(fov=60, yaw=yaw))[0].panorama
        for yaw in (0, 90)
    )
    assert np.abs(np.roll(ahead, -HEIGHT // 2, axis=1) - left).max() < 1e-4


@pytest.mark.slow
def test_prompt_affects_outpainting(models, flux, reporter):
    picture = np.full((60, 80, 3), 0.3, np.float32)
    plain, guided = (
        generate(models, flux, GenerateSettings(prompt=text, **SIZE), reporter, picture, View(fov=60))[0].panorama
        for text in ("", "a forest")
    )
    assert not np.array_equal(plain, guided)


@pytest.mark.slow
def test_starter_outpaints_once_it_is_trained(models, fast_flux, tiny_adapters, tmp_path, reporter, small):
    """The starter has no text encoders."""
    folder = tmp_path / "starter"
    shutil.copytree(checkpoints.STARTER, folder)
    config = msgspec.json.decode((folder / "panoform.json").read_bytes())
    picture = np.full((60, 80, 3), 0.3, np.float32)
    for trained in (False, True):
        (folder / "panoform.json").write_bytes(msgspec.json.encode({**config, "trained": trained}))
        starter = EngineSettings(model=str(folder))
        if not trained:
            with pytest.raises(WeightsError, match="not trained yet"):
                generate(models, starter, GenerateSettings(**SIZE), reporter, picture, View(fov=60))
            continue
        made = generate(models, starter, GenerateSettings(**SIZE | {"height": 512}), reporter, picture, View(fov=60))
        assert made[0].panorama.shape == (512, 1024, 3)
    with pytest.raises(WeightsError, match=r"Prompts and edits need FLUX.*huggingface\.co"):
        generate(models, EngineSettings(), GenerateSettings(prompt="a yard"), reporter)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "neither a prompt nor a picture"),
        ({"prompt": " \n "}, "neither a prompt nor a picture"),
        ({"prompt": "stone yard " * 5000}, "long"),
        ({"height": 112}, "height"),
        ({"height": 4096}, "height"),
        ({"num_inference_steps": 0}, "steps"),
        ({"guidance_scale": 31.0}, "Guidance"),
        ({"true_cfg_scale": 0.5}, "True guidance"),
        ({"shift": 0.0}, "shift"),
        ({"seeds": (-1,)}, "seed"),
        ({"seeds": (1, 1)}, "given twice"),
        ({"method": "magic"}, "method"),
        ({"method": "lora", "lora": None}, "LoRA"),
        ({"method": "omnix", "true_cfg_scale": 2.0}, "negative prompt"),
    ],
)
def test_invalid_setting_is_rejected(models, flux, prompt_settings, reporter, fields, message):
    with pytest.raises(SettingError, match=message):
        generate(models, flux, changed(prompt_settings, **fields), reporter)


@pytest.mark.parametrize(
    ("picture", "view", "message"),
    [
        (np.zeros((60, 80, 3), np.float32), View(), "field of view"),
        (np.zeros((60, 80, 3), np.float32), View(fov=0), "field of view"),
        (np.zeros((60, 80, 3), np.float32), View(fov=200), "field of view"),
        (np.zeros((60, 80, 3), np.float32), View(fov=60, pitch=120), "pitch"),
        (np.zeros((60, 80), np.float32), View(fov=60), "shape"),
        (np.zeros((60, 80, 4), np.float32), View(fov=60), "shape"),
        (np.zeros((2, 9, 3), np.float32), View(fov=60), "9 × 2.*at least 16"),
        (np.full((60, 80, 3), 2, np.float32), View(fov=60), "0 to 1"),
        (np.full((60, 80, 3), np.nan, np.float32), View(fov=60), "0 to 1"),
    ],
)
def test_invalid_picture_or_view_is_rejected(models, flux, prompt_settings, reporter, picture, view, message):
    with pytest.raises(InputError, match=message):
        generate(models, flux, prompt_settings, reporter, picture, view)


def test_missing_or_incompatible_lora_is_rejected(models, flux, prompt_settings, reporter, tmp_path):
    with pytest.raises(AdapterError, match="no LoRA"):
        generate(models, flux, changed(prompt_settings, lora=str(tmp_path / "absent.safetensors")), reporter)
    other = tmp_path / "other.safetensors"
    name = "transformer.transformer_blocks.0.attn.to_q.lora_"
    save_file({f"{name}A.weight": torch.zeros(4, 3072), f"{name}B.weight": torch.zeros(3072, 4)}, other)
    with pytest.raises(AdapterError, match="3072"):
        generate(models, flux, changed(prompt_settings, lora=str(other)), reporter)
    with pytest.raises(AdapterError, match=r"0 \.safetensors files"):
        generate(models, flux, changed(prompt_settings, lora=str(tmp_path.parent)), reporter)


@pytest.mark.parametrize(("height", "expected"), [(1000, 1008), (1024, 1024), (260, 256), (100, 256), (5000, 2048)])
def test_height_is_rounded(height, expected):
    assert rounded(height) == expected


@pytest.mark.slow
def test_out_of_memory_error_suggests_a_size_that_fits(models, flux, prompt_settings, reporter, monkeypatch):
    before = generate(models, flux, changed(prompt_settings, lora=""), reporter)[0].panorama

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr("panoform.backend.generation.sampler.Sampler.text_to_panorama", exhausted)
        model = models.latest
        need = loader.needs(model.source, model.base, [1])(400)
        free = need.everything - model.base.bytes_in(model.dtype)  # the weights are in memory already
        patch.setattr("panoform.backend.models.device.memory", lambda _: (free, 2**34))
        with pytest.raises(DeviceMemoryError, match=r"1024 × 512 ran out of memory.*About 800 × 400 would fit\.$"):
            generate(models, flux, changed(prompt_settings, height=512), reporter)
        # If no height fits, the advice is general, and does not suggest offloading on a CPU.
        patch.setattr("panoform.backend.models.device.memory", lambda _: (2**20, 2**34))
        with pytest.raises(DeviceMemoryError, match=r"1024 × 512 ran out of memory.*Lower the height, and close other"):
            generate(models, flux, changed(prompt_settings, height=512), reporter)
        # A budget limits it, too.
        patch.setattr("panoform.backend.models.device.memory", lambda _: (2**34, 2**34))
        patch.setattr("panoform.backend.models.flux.loader.Source.budget", property(lambda _: free))
        with pytest.raises(DeviceMemoryError, match=r"1024 × 512 ran out of memory.*About 800 × 400 would fit\.$"):
            generate(models, flux, changed(prompt_settings, height=512), reporter)
    assert np.array_equal(generate(models, flux, changed(prompt_settings, lora=""), reporter)[0].panorama, before)
