"""Generation from prompts, around pictures, and edits, with the real classes at tiny size and real text encoders."""

from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import distance_transform_edt

from panoform.backend.evaluation import seam_metrics
from panoform.backend.generation import edit_job, job, session
from panoform.backend.geometry import projection
from panoform.backend.io.generated import sha256
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import checkpoints
from panoform.backend.pipelines import dit360
from panoform.shared.engines import EngineSettings
from panoform.shared.imaging import sphere
from panoform.shared.jobs.edit import EditRequest
from panoform.shared.jobs.generate import GenerateRequest, GenerateSettings, Recipe, View, rounded
from panoform.shared.protocol.errors import (
    AdapterError,
    Cancelled,
    DeviceMemoryError,
    InputError,
    SettingError,
    WeightsError,
)

SIZE = {"height": 256, "num_inference_steps": 2, "hdr": False}


@pytest.fixture(scope="module")
def engine():
    return ModelCache()


@pytest.fixture
def flux(tiny_flux, tiny_adapters):
    return EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters), dtype="fp32")


@pytest.fixture
def prompt_settings(tiny_lora):
    return GenerateSettings(prompt="a stone yard", lora=str(tiny_lora), **SIZE)


def generate(engine, flux, settings, reporter, picture=None, view=None):
    request = GenerateRequest(picture=picture, view=view or View(), engine=flux, settings=settings)
    return job.generate(request, engine, reporter)


def edit(engine, flux, settings, reporter, panorama, mask, strength=1.0, encoding="linear", extend=False):
    request = EditRequest(
        panorama=panorama, encoding=encoding, mask=None if mask is None else mask[..., None].astype(np.uint8),
        strength=strength, extend=extend, source="p.exr", engine=flux, settings=settings,
    )  # fmt: skip
    return edit_job.edit(request, engine, reporter)


def changed(settings, **fields):
    return msgspec.structs.replace(settings, **fields)


def scene(height=256):
    """Return smooth linear light with a sun."""
    rays = sphere.directions(height, 2 * height)
    light = np.exp(np.stack([rays[..., 0], 0.5 * rays[..., 1] - rays[..., 2], rays[..., 2]], -1)).astype(np.float32)
    light[height // 4, height // 3] = 3000
    return light


# Prompts


@pytest.mark.slow
def test_prompt_gives_one_panorama_per_seed(engine, flux, prompt_settings, reporter):
    made = generate(engine, flux, changed(prompt_settings, seeds=(1, 2)), reporter)
    assert [one.recipe.settings.seeds for one in made] == [(1,), (2,)]
    for one in made:
        assert one.panorama.shape == (256, 512, 3)
        assert one.panorama.dtype == np.float32
        assert 0 <= one.panorama.min() < one.panorama.max() <= 1
        assert max(seam_metrics.poles(one.panorama)) < 0.5  # the rows at the poles are nearly one colour
    assert not np.array_equal(made[0].panorama, made[1].panorama)
    again = generate(engine, flux, changed(prompt_settings, seeds=(2,)), reporter)[0]
    assert np.array_equal(again.panorama, made[1].panorama)


@pytest.mark.slow
def test_recipe_reproduces_the_panorama(engine, flux, tiny_lora, reporter):
    """All defaults are resolved, and the recipe round-trips through JSON."""
    requested = GenerateSettings(
        prompt=" a yard ", height=250, lora=str(tiny_lora), num_inference_steps=2, seeds=(7,), hdr=False
    )
    one = generate(engine, flux, msgspec.structs.replace(requested, height=261), reporter)[0]
    recipe = msgspec.json.decode(msgspec.json.encode(one.recipe), type=Recipe)
    used = recipe.settings
    assert (used.prompt, used.trigger) == ("a yard", "This is a panorama. The image shows")
    assert (used.guidance_scale, used.num_inference_steps, used.height, used.seeds) == (2.8, 2, 256, (7,))
    assert recipe.notices == ("The height 261 was rounded to 256, a multiple of 16.",)
    assert recipe.versions["diffusers"]
    again = generate(engine, recipe.engine, used, reporter)[0]
    assert np.array_equal(again.panorama, one.panorama)
    assert not again.recipe.notices


@pytest.mark.slow
def test_every_setting_changes_the_result(engine, flux, prompt_settings, reporter, monkeypatch):
    monkeypatch.setattr("panoform.shared.jobs.generate.MIN_HEIGHT", 128)  # a quarter of the pixels of the least
    prompt_settings = changed(prompt_settings, height=128)
    base = generate(engine, flux, prompt_settings, reporter)[0].panorama
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
            generate(engine, flux, changed(prompt_settings, **other), reporter)[0].panorama, base
        ), other
    assert np.array_equal(
        generate(engine, flux, changed(prompt_settings, negative_prompt="fog"), reporter)[0].panorama, base
    )
    assert np.array_equal(
        generate(engine, flux, prompt_settings, reporter)[0].panorama, base
    )  # and no setting persists


@pytest.mark.slow
def test_omnix_generates_a_picture_and_outpaints_it(engine, flux, prompt_settings, reporter, monkeypatch):
    monkeypatch.setattr("panoform.backend.generation.sampler.PICTURE_SIDE", 256)
    made = generate(engine, flux, changed(prompt_settings, method="omnix", lora=None), reporter)[0]
    assert made.panorama.shape == (256, 512, 3)
    assert (made.recipe.kind, made.recipe.adapters) == ("words", flux.adapters)
    stages = [stage for stage, *_ in reporter.reported]
    assert stages.index("Picture") < stages.index("Panorama")


@pytest.mark.slow
def test_progress_is_complete_and_previews_are_reported(engine, flux, prompt_settings, reporter):
    generate(engine, flux, changed(prompt_settings, seeds=(0, 1)), reporter)
    done = [(stage, step, fraction) for stage, step, of, fraction, _ in reporter.reported if of]
    assert [stage for stage, *_ in done] == ["Panorama 1 of 2"] * 2 + ["Panorama 2 of 2"] * 2
    fractions = [fraction for *_, fraction in done]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    name, preview = reporter.previews[-1]
    assert name == "panorama"
    assert preview.dtype == np.uint8
    assert preview.shape == (128, 256, 3)


@pytest.mark.slow
def test_clipped_lights_are_rebuilt(engine, flux, prompt_settings, reporter):
    picture = generate(engine, flux, prompt_settings, reporter)[0]
    light = generate(engine, flux, changed(prompt_settings, hdr=True, sun_threshold=0.9), reporter)[0]
    assert (picture.recipe.encoding, light.recipe.encoding) == ("srgb", "linear")
    linear = np.where(
        picture.panorama <= 0.04045, picture.panorama / 12.92, ((picture.panorama + 0.055) / 1.055) ** 2.4
    )
    dark = picture.panorama.min(-1) < 0.9
    assert np.abs(light.panorama - linear)[dark].max() < 1e-5


@pytest.fixture
def in_windows(monkeypatch):
    """Shrink all sizes so that 768 × 384 is processed like 4096 × 2048: enlarged, then refined and coded in windows."""
    for method in session.NATIVE:
        monkeypatch.setitem(session.NATIVE, method, 256)
    monkeypatch.setattr("panoform.backend.generation.sampler.WINDOW", (256, 256))
    for name, latents in (("MAX_WHOLE", 32 * 64), ("VAE_TILE", 32), ("VAE_OVERLAP", 8)):
        monkeypatch.setattr(dit360, name, latents)


LARGE = {"height": 384, "num_inference_steps": 1}


def check_closed(panorama):
    assert panorama.shape == (384, 768, 3)
    assert seam_metrics.seam(panorama).ratio < 2
    assert max(seam_metrics.poles(panorama)) < 0.2


@pytest.mark.slow
def test_large_panoramas_from_a_prompt_have_no_seam(engine, flux, prompt_settings, reporter, in_windows):
    check_closed(generate(engine, flux, changed(prompt_settings, **LARGE), reporter)[0].panorama)
    assert [stage for stage, _, of, *_ in reporter.reported if of] == ["Panorama", "Refining Panorama"]
    assert reporter.reported[-1][3] == 1


@pytest.mark.slow
def test_large_panoramas_around_a_picture_have_no_seam(engine, flux, reporter, in_windows):
    picture = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    settings = GenerateSettings(**SIZE | LARGE)
    check_closed(generate(engine, flux, settings, reporter, picture, View(fov=60))[0].panorama)


@pytest.mark.slow
def test_large_edits_keep_pixels_outside_the_mask(engine, flux, prompt_settings, reporter, in_windows):
    panorama, mask = scene(384), ball(384, 0, 200, 60)
    made = edit(engine, flux, changed(prompt_settings, **LARGE), reporter, panorama, mask)[0].panorama
    assert np.array_equal(made[~mask], panorama[~mask])
    assert np.abs(made - panorama)[mask].mean() > 0.05
    assert seam_metrics.seam(np.log1p(made)[mask.any(axis=1)]).percentile < 1


@pytest.mark.slow
def test_cancels_within_a_step_and_restores_the_model(engine, flux, prompt_settings, reporter, stopping_reporter):
    before = generate(engine, flux, changed(prompt_settings, lora=""), reporter)[0].panorama
    with pytest.raises(Cancelled):
        generate(
            engine, flux, prompt_settings, stopping_reporter(lambda stage, step: stage == "Panorama" and step == 1)
        )
    assert np.array_equal(generate(engine, flux, changed(prompt_settings, lora=""), reporter)[0].panorama, before)


# Pictures


@pytest.mark.slow
def test_picture_is_projected_in_its_camera_direction(engine, flux, reporter):
    panorama = 0.5 + 0.4 * sphere.directions(256, 512)
    pose = {"yaw": 133.0, "pitch": 15.0, "roll": -8.0}
    picture = projection.picture_from_panorama(panorama, 240, 320, 65, **pose)
    made = generate(engine, flux, GenerateSettings(**SIZE), reporter, picture, View(fov=65, **pose))[0]
    _, shown = projection.panorama_from_picture(picture, 256, 65, **pose)
    inner = shown & np.roll(shown, 8, 1) & np.roll(shown, -8, 1) & np.roll(shown, 8, 0) & np.roll(shown, -8, 0)
    assert inner.sum() > 3000
    assert np.abs(made.panorama - panorama)[inner].max() < 0.01
    assert np.abs(made.panorama - panorama)[~shown].mean() > 0.05  # generated by the model
    assert made.recipe.kind == "picture"
    assert made.recipe.view == View(fov=65, **pose)
    assert len(made.recipe.source_sha256) == 64


@pytest.mark.slow
@pytest.mark.parametrize("pose", [{"yaw": 180.0, "roll": 20.0}, {"yaw": -60.0, "pitch": 75.0}], ids=["seam", "pole"])
def test_a_picture_keeps_its_own_pixels(engine, flux, reporter, pose):
    """The picture's pixels replace the model's; only its border is blended."""
    picture = np.random.default_rng(0).random((75, 100, 3)).astype(np.float32)
    made = generate(engine, flux, GenerateSettings(**SIZE), reporter, picture, View(fov=70, **pose))[0].panorama
    own, shown = projection.panorama_from_picture(picture, 256, 70, **pose)
    depth = distance_transform_edt(np.concatenate([shown] * 3, axis=1))[:, 512:1024]
    inner, border = depth >= 0.01 * 256, (depth > 0) & (depth < 0.01 * 256)
    assert np.array_equal(made[inner], own[inner])
    assert own[inner].std() > 0.05  # of noise, which nothing but the picture has
    off = np.abs(made - own).mean(axis=-1)
    assert off[depth == 1].mean() > 0.3 * off[~shown].mean()
    assert off[border].mean() < 0.8 * off[~shown].mean()


@pytest.mark.slow
def test_turning_the_camera_turns_the_panorama(engine, flux, reporter):
    """The picture is centred in the model's input, independent of the camera."""
    picture = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    ahead, left = (
        generate(engine, flux, GenerateSettings(**SIZE), reporter, picture, View(fov=60, yaw=yaw))[0].panorama
        for yaw in (0, 90)
    )
    assert np.abs(np.roll(ahead, -128, axis=1) - left).max() < 1e-4


@pytest.mark.slow
def test_prompt_affects_outpainting(engine, flux, reporter):
    picture = np.full((60, 80, 3), 0.3, np.float32)
    plain, guided = (
        generate(engine, flux, GenerateSettings(prompt=text, **SIZE), reporter, picture, View(fov=60))[0].panorama
        for text in ("", "a forest")
    )
    assert not np.array_equal(plain, guided)


@pytest.mark.slow
def test_the_trained_starter_completes_a_picture(engine, tiny_flux, tiny_adapters, tmp_path, reporter):
    """A starter engine marked as trained, without text encoders."""
    folder = tmp_path / "starter"
    shutil.copytree(checkpoints.STARTER, folder)
    config = msgspec.json.decode((folder / "panoform.json").read_bytes())
    picture = np.full((60, 80, 3), 0.3, np.float32)
    for trained in (False, True):
        (folder / "panoform.json").write_bytes(msgspec.json.encode({**config, "trained": trained}))
        starter = EngineSettings(model=str(folder))
        if not trained:
            with pytest.raises(WeightsError, match="not trained yet"):
                generate(engine, starter, GenerateSettings(**SIZE), reporter, picture, View(fov=60))
            continue
        made = generate(engine, starter, GenerateSettings(**SIZE | {"height": 512}), reporter, picture, View(fov=60))
        assert made[0].panorama.shape == (512, 1024, 3)
    with pytest.raises(WeightsError, match=r"Prompts and edits need FLUX.*huggingface\.co"):
        generate(engine, EngineSettings(), GenerateSettings(prompt="a yard"), reporter)


# Edits


def ball(height, u, v, radius):
    y, x = np.mgrid[:height, : 2 * height]
    return np.minimum((x - u) % (2 * height), (u - x) % (2 * height)) ** 2 + (y - v) ** 2 < radius**2


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["linear", "srgb"])
def test_pixels_outside_the_mask_are_unchanged(engine, flux, prompt_settings, reporter, encoding):
    panorama = scene() if encoding == "linear" else (0.5 + 0.4 * sphere.directions(256, 512)).astype(np.float32)
    mask = ball(256, 0, 128, 40)  # across the seam
    made = edit(engine, flux, prompt_settings, reporter, panorama, mask, encoding=encoding)[0]
    assert np.array_equal(made.panorama[~mask], panorama[~mask])
    assert np.abs(made.panorama - panorama)[mask].mean() > 0.05
    assert (made.recipe.encoding, made.recipe.strength) == (encoding, 1.0)
    assert made.recipe.mask_sha256 != made.recipe.source_sha256
    # New content is blended: steps at the mask's edge are no larger than inside.
    step = np.abs(np.diff(made.panorama, axis=1)).mean(-1)
    edge = mask[:, 1:] != mask[:, :-1]
    inside = mask[:, 1:] & mask[:, :-1]
    assert step[edge].max() <= np.quantile(step[inside], 0.999)


def test_edit_across_the_seam_is_seamless(engine, flux, prompt_settings, reporter):
    panorama = scene()
    made = edit(engine, flux, prompt_settings, reporter, panorama, ball(256, 0, 128, 40))[0].panorama
    assert seam_metrics.seam(np.log1p(made)).percentile < 1


@pytest.mark.slow
def test_recipe_reproduces_an_edit(engine, flux, prompt_settings, reporter):
    """With its source panorama and mask; all defaults are resolved."""
    panorama, mask = scene(300), ball(300, 0, 100, 30)
    one = edit(
        engine, flux, changed(prompt_settings, height=264, num_inference_steps=4), reporter, panorama, mask, 0.6
    )[0]
    recipe = msgspec.json.decode(msgspec.json.encode(one.recipe), type=Recipe)
    assert (recipe.source_sha256, recipe.mask_sha256) == (sha256(panorama), sha256(mask))
    again = edit(
        engine,
        recipe.engine,
        recipe.settings,
        reporter,
        panorama,
        mask,
        recipe.strength,
        recipe.encoding,
        recipe.extend,
    )[0]
    assert np.array_equal(again.panorama, one.panorama)
    kept = {"seconds": 0.0, "notices": ()}  # that its height was rounded is said only once
    assert changed(again.recipe, **kept) == changed(recipe, **kept)


@pytest.mark.slow
def test_a_mask_that_is_full_changes_all(engine, flux, prompt_settings, reporter):
    panorama = (0.5 + 0.4 * sphere.directions(256, 512)).astype(np.float32)
    full, none = (
        edit(engine, flux, prompt_settings, reporter, panorama, mask, encoding="srgb")[0].panorama
        for mask in (np.ones((256, 512), bool), None)
    )
    assert np.array_equal(full, none)


@pytest.mark.slow
def test_variations_change_all_of_it_and_need_no_words(engine, flux, prompt_settings, reporter):
    panorama = (0.5 + 0.4 * sphere.directions(256, 512)).astype(np.float32)
    requested = changed(prompt_settings, num_inference_steps=5, prompt="", seeds=(0, 1))
    little, much = (
        edit(engine, flux, requested, reporter, panorama, None, strength, "srgb") for strength in (0.2, 1.0)
    )
    assert (np.abs(little[0].panorama - panorama).max(-1) > 1e-3).mean() > 0.9
    assert not np.array_equal(little[0].panorama, little[1].panorama)
    assert not np.array_equal(little[0].panorama, much[0].panorama)
    assert little[0].recipe.strength == 0.2
    assert little[0].recipe.mask_sha256 == ""


def test_a_large_panorama_keeps_its_size(engine, flux, prompt_settings, reporter):
    panorama = scene(300)
    mask = ball(300, 250, 100, 30)
    made = edit(engine, flux, prompt_settings, reporter, panorama, mask)[0]
    assert made.panorama.shape == (300, 600, 3)
    assert made.recipe.size == (300, 600)
    assert np.array_equal(made.panorama[~mask], panorama[~mask])


def test_extends_from_what_is_known_alone(engine, flux, prompt_settings, reporter):
    panorama = (0.5 + 0.4 * sphere.directions(256, 512)).astype(np.float32)
    _, known = projection.panorama_from_picture(np.zeros((60, 80, 3), np.float32), 256, 100, yaw=180)
    black, noise = panorama * known[..., None], np.where(known[..., None], panorama, 0.7)
    made = [
        edit(engine, flux, prompt_settings, reporter, given, ~known, encoding="srgb", extend=True)[0].panorama
        for given in (black, noise)
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0][known], panorama[known])
    for mask, strength in ((None, 1.0), (np.ones_like(known), 1.0), (~known, 0.5)):
        with pytest.raises(SettingError, match="extend"):
            edit(engine, flux, prompt_settings, reporter, panorama, mask, strength, encoding="srgb", extend=True)


def test_a_sun_that_stays_white_keeps_its_light(engine, flux, prompt_settings, reporter, monkeypatch):
    """What comes back white where nothing was becomes no sun."""
    panorama = scene()
    panorama[60:70, 100:110] = 500.0
    monkeypatch.setattr("panoform.backend.generation.sampler.Sampler.edit", lambda self, picture, *_: picture * 0 + 1)
    made = edit(engine, flux, prompt_settings, reporter, panorama, None, 0.5)[0].panorama
    assert (made[60:70, 100:110] == 500).all()
    dim = panorama.max(-1) < 2
    assert made[dim].max() < 20 * np.median(panorama)


@pytest.mark.slow
def test_flux_fill_can_edit_but_not_outpaint(engine, tiny_flux, prompt_settings, reporter, tmp_path):
    folder = tmp_path / "fill"
    shutil.copytree(tiny_flux, folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["x_embedder.weight"] = torch.cat([state["x_embedder.weight"]] * 6, dim=1)
    save_file(state, file)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"in_channels": 384, "out_channels": 64}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxFillPipeline"}))
    fill = EngineSettings(engine="flux", model=str(folder), dtype="fp32")
    panorama, mask = scene(), ball(256, 0, 128, 40)
    made = edit(engine, fill, prompt_settings, reporter, panorama, mask)[0]
    assert np.array_equal(made.panorama[~mask], panorama[~mask])
    assert made.recipe.settings.guidance_scale == 30
    with pytest.raises(WeightsError, match="Fill"):
        generate(engine, fill, prompt_settings, reporter, np.zeros((60, 80, 3), np.float32), View(fov=60))
    engine.clear()
    with pytest.raises(WeightsError, match="Fill"):
        generate(engine, fill, prompt_settings, reporter, np.zeros((60, 80, 3), np.float32), View(fov=60))


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "neither a prompt nor a picture"),
        ({"prompt": " \n "}, "neither a prompt nor a picture"),
        ({"prompt": "stone yard " * 5000}, "long"),
        ({"height": 128}, "height"),
        ({"height": 4096}, "height"),
        ({"num_inference_steps": 0}, "steps"),
        ({"guidance_scale": 31.0}, "Guidance"),
        ({"true_cfg_scale": 0.5}, "True guidance"),
        ({"shift": 0.0}, "shift"),
        ({"seeds": (-1,)}, "seed"),
        ({"method": "magic"}, "method"),
        ({"method": "lora", "lora": None}, "LoRA"),
        ({"method": "omnix", "true_cfg_scale": 2.0}, "negative prompt"),
    ],
)
def test_rejects_settings(engine, flux, prompt_settings, reporter, fields, message):
    with pytest.raises(SettingError, match=message):
        generate(engine, flux, changed(prompt_settings, **fields), reporter)


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
def test_rejects_pictures(engine, flux, prompt_settings, reporter, picture, view, message):
    with pytest.raises(InputError, match=message):
        generate(engine, flux, prompt_settings, reporter, picture, view)


@pytest.mark.parametrize(
    ("panorama", "mask", "strength", "message"),
    [
        (scene(), np.ones((128, 256), bool), 1.0, "512 × 256"),
        (scene(), np.zeros((256, 512), bool), 1.0, "empty"),
        (scene(), np.ones((256, 512), bool), 0.0, "strength"),
        (scene(), np.ones((256, 512), bool), 1.5, "strength"),
        (scene()[:, 1:], None, 1.0, "2:1"),
        (scene()[:, :256], None, 1.0, "2:1"),
        (scene() * np.nan, None, 1.0, "not a number"),
    ],
)
def test_rejects_edits(engine, flux, prompt_settings, reporter, panorama, mask, strength, message):
    with pytest.raises(InputError, match=message):
        edit(engine, flux, prompt_settings, reporter, panorama, mask, strength)


def test_rejects_edits_without_prompt_or_with_omnix(engine, flux, prompt_settings, reporter):
    mask = ball(256, 100, 100, 30)
    with pytest.raises(SettingError, match="needs a prompt"):
        edit(engine, flux, changed(prompt_settings, prompt=""), reporter, scene(), mask)
    with pytest.raises(SettingError, match="OmniX"):
        edit(engine, flux, changed(prompt_settings, method="omnix"), reporter, scene(), mask)


def test_rejects_a_lora_that_is_not_there_or_of_another_base(engine, flux, prompt_settings, reporter, tmp_path):
    with pytest.raises(AdapterError, match="no LoRA"):
        generate(engine, flux, changed(prompt_settings, lora=str(tmp_path / "absent.safetensors")), reporter)
    other = tmp_path / "other.safetensors"
    name = "transformer.transformer_blocks.0.attn.to_q.lora_"
    save_file({f"{name}A.weight": torch.zeros(4, 3072), f"{name}B.weight": torch.zeros(3072, 4)}, other)
    with pytest.raises(AdapterError, match="3072"):
        generate(engine, flux, changed(prompt_settings, lora=str(other)), reporter)
    with pytest.raises(AdapterError, match=r"0 \.safetensors files"):
        generate(engine, flux, changed(prompt_settings, lora=str(tmp_path.parent)), reporter)


@pytest.mark.parametrize(("height", "to"), [(1000, 1008), (1024, 1024), (260, 256), (100, 256), (5000, 2048)])
def test_rounds(height, to):
    assert rounded(height) == to


@pytest.mark.slow
def test_out_of_memory_says_what_would_fit(engine, flux, prompt_settings, reporter, monkeypatch):
    before = generate(engine, flux, changed(prompt_settings, lora=""), reporter)[0].panorama

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr("panoform.backend.generation.sampler.Sampler.text_to_panorama", exhausted)
        # Free for this VAE of 32 channels in float32: five of them at 400 × 800.
        patch.setattr("panoform.backend.models.device.memory", lambda _: (5 * 32 * 4 * 400 * 800, 2**34))
        with pytest.raises(DeviceMemoryError, match=r"1024 × 512 ran out of memory.*About 800 × 400 would fit\.$"):
            generate(engine, flux, changed(prompt_settings, height=512), reporter)
        # Where even the least height is too much, there is nothing but general advice: on a CPU, no offloading.
        patch.setattr("panoform.backend.models.device.memory", lambda _: (2**20, 2**34))
        with pytest.raises(DeviceMemoryError, match=r"1024 × 512 ran out of memory.*Lower the height, and close other"):
            generate(engine, flux, changed(prompt_settings, height=512), reporter)
    assert np.array_equal(generate(engine, flux, changed(prompt_settings, lora=""), reporter)[0].panorama, before)
