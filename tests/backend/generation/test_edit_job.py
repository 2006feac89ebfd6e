"""Edits of panoramas, with the real classes at tiny size and real text encoders."""

from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from generating import LARGE, changed, disc, edit, generate, gradient, sunny_panorama
from safetensors.torch import load_file, save_file

from panoform.backend.evaluation import seam_metrics
from panoform.backend.geometry import projection
from panoform.backend.io.generated import sha256
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.generate import Recipe, View
from panoform.shared.protocol.errors import InputError, SettingError, WeightsError


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["linear", "srgb"])
def test_pixels_outside_the_mask_are_unchanged(models, flux, prompt_settings, reporter, encoding):
    panorama = sunny_panorama() if encoding == "linear" else gradient()
    mask = disc(128, 0, 64, 20)  # across the seam
    made = edit(models, flux, prompt_settings, reporter, panorama, mask, encoding=encoding)[0]
    assert np.array_equal(made.panorama[~mask], panorama[~mask])
    assert np.abs(made.panorama - panorama)[mask].mean() > 0.05
    assert (made.recipe.encoding, made.recipe.strength) == (encoding, 1.0)
    assert made.recipe.mask_sha256 != made.recipe.source_sha256
    # New content is blended: steps at the mask's edge are no larger than inside.
    step = np.abs(np.diff(made.panorama, axis=1)).mean(-1)
    edge = mask[:, 1:] != mask[:, :-1]
    inside = mask[:, 1:] & mask[:, :-1]
    assert step[edge].max() <= np.quantile(step[inside], 0.999)


@pytest.mark.slow
def test_edit_across_the_seam_is_seamless(models, flux, prompt_settings, reporter):
    panorama = sunny_panorama()
    made = edit(models, flux, prompt_settings, reporter, panorama, disc(128, 0, 64, 20))[0].panorama
    assert seam_metrics.seam(np.log1p(made)).percentile < 1


@pytest.mark.slow
def test_recipe_reproduces_an_edit(models, flux, prompt_settings, reporter):
    """The recipe is applied with the source panorama and the mask; all defaults are resolved."""
    panorama, mask = sunny_panorama(150), disc(150, 0, 50, 15)
    one = edit(
        models, flux, changed(prompt_settings, height=136, num_inference_steps=4), reporter, panorama, mask, 0.6
    )[0]
    recipe = msgspec.json.decode(msgspec.json.encode(one.recipe), type=Recipe)
    assert (recipe.source_sha256, recipe.mask_sha256) == (sha256(panorama), sha256(mask))
    again = edit(
        models,
        msgspec.structs.replace(recipe.engine, model=flux.model, adapters=flux.adapters),
        changed(recipe.settings, lora=prompt_settings.lora),
        reporter,
        panorama,
        mask,
        recipe.strength,
        recipe.encoding,
        recipe.extend,
    )[0]
    assert np.array_equal(again.panorama, one.panorama)
    ignored = {"seconds": 0.0, "notices": ()}  # the recipe's height needs no rounding
    assert changed(again.recipe, **ignored) == changed(recipe, **ignored)


@pytest.mark.slow
def test_full_mask_equals_no_mask(models, flux, prompt_settings, reporter):
    panorama = gradient()
    full, none = (
        edit(models, flux, prompt_settings, reporter, panorama, mask, encoding="srgb")[0].panorama
        for mask in (np.ones((128, 256), bool), None)
    )
    assert np.array_equal(full, none)


@pytest.mark.slow
def test_variations_change_all_pixels_and_need_no_prompt(models, flux, prompt_settings, reporter):
    panorama = gradient()
    requested = changed(prompt_settings, num_inference_steps=5, prompt="", seeds=(0, 1))
    weak, strong = (
        edit(models, flux, requested, reporter, panorama, None, strength, "srgb") for strength in (0.2, 1.0)
    )
    assert (np.abs(weak[0].panorama - panorama).max(-1) > 1e-3).mean() > 0.9
    assert not np.array_equal(weak[0].panorama, weak[1].panorama)
    assert not np.array_equal(weak[0].panorama, strong[0].panorama)
    assert weak[0].recipe.strength == 0.2
    assert weak[0].recipe.mask_sha256 == ""


@pytest.mark.slow
def test_edited_panorama_keeps_its_size(models, flux, prompt_settings, reporter):
    panorama = sunny_panorama(150)
    mask = disc(150, 125, 50, 15)
    made = edit(models, flux, prompt_settings, reporter, panorama, mask)[0]
    assert made.panorama.shape == (150, 300, 3)
    assert made.recipe.size == (150, 300)
    assert np.array_equal(made.panorama[~mask], panorama[~mask])


@pytest.mark.slow
def test_extending_depends_on_known_pixels_only(models, flux, prompt_settings, reporter):
    panorama = gradient()
    _, known = projection.panorama_from_picture(np.zeros((60, 80, 3), np.float32), 128, 100, yaw=180)
    black, noise = panorama * known[..., None], np.where(known[..., None], panorama, 0.7)
    made = [
        edit(models, flux, prompt_settings, reporter, source, ~known, encoding="srgb", extend=True)[0].panorama
        for source in (black, noise)
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0][known], panorama[known])
    for mask, strength in ((None, 1.0), (np.ones_like(known), 1.0), (~known, 0.5)):
        with pytest.raises(SettingError, match="extend"):
            edit(models, flux, prompt_settings, reporter, panorama, mask, strength, encoding="srgb", extend=True)


@pytest.mark.slow
def test_sun_that_stays_white_keeps_its_brightness(models, flux, prompt_settings, reporter, monkeypatch):
    """Other pixels that become white do not become as bright as a sun."""
    panorama = sunny_panorama()
    panorama[60:70, 100:110] = 500.0
    monkeypatch.setattr("panoform.backend.generation.sampler.Sampler.edit", lambda self, picture, *_: picture * 0 + 1)
    made = edit(models, flux, prompt_settings, reporter, panorama, None, 0.5)[0].panorama
    assert (made[60:70, 100:110] == 500).all()
    dim = panorama.max(-1) < 2
    assert made[dim].max() < 20 * np.median(panorama)


@pytest.mark.slow
def test_new_lamps_shine(models, flux, prompt_settings, reporter, monkeypatch):
    """A lamp that is painted into linear light is brighter than white; what isn't white stays as without it."""
    panorama = sunny_panorama()
    inside, lamp = disc(128, 150, 45, 15), torch.from_numpy(disc(128, 150, 45, 6))

    def paint(_self, picture, *_):
        painted = picture.clone()
        painted[..., lamp] = 1.0
        return painted

    monkeypatch.setattr("panoform.backend.generation.sampler.Sampler.edit", paint)
    white, light = (
        edit(models, flux, changed(prompt_settings, hdr=hdr), reporter, panorama, inside, 0.5)[0]
        for hdr in (False, True)
    )
    assert (white.recipe.light, light.recipe.light is not None) == (None, True)
    beside = ~disc(128, 150, 45, 7)
    assert np.array_equal(light.panorama[beside], white.panorama[beside])
    assert light.panorama[45, 150].min() > 1.2 * white.panorama[45, 150].max()


@pytest.mark.slow
def test_a_new_lamp_is_found_by_the_threshold(models, flux, prompt_settings, reporter, monkeypatch):
    """A lamp of sRGB 0.9 shines where 0.85 counts as clipped."""
    panorama, lamp = sunny_panorama(), torch.from_numpy(disc(128, 150, 45, 6))

    def paint(_self, picture, *_):
        painted = picture.clone()
        painted[..., lamp] = 0.9
        return painted

    monkeypatch.setattr("panoform.backend.generation.sampler.Sampler.edit", paint)
    settings = changed(prompt_settings, hdr=True, measure_light=False)
    grey, shining = (
        edit(models, flux, changed(settings, sun_threshold=threshold), reporter, panorama, disc(128, 150, 45, 15), 0.5)
        for threshold in (0.98, 0.85)
    )
    assert shining[0].panorama[45, 150].min() > 1.2 * grey[0].panorama[45, 150].max()


@pytest.mark.slow
def test_flux_fill_can_edit_but_not_outpaint(models, fast_flux, prompt_settings, reporter, tmp_path):
    folder = tmp_path / "fill"
    shutil.copytree(fast_flux, folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["x_embedder.weight"] = torch.cat([state["x_embedder.weight"]] * 6, dim=1)
    save_file(state, file)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"in_channels": 384, "out_channels": 64}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxFillPipeline"}))
    fill = EngineSettings(engine="flux", model=str(folder), dtype="fp32")
    panorama, mask = sunny_panorama(), disc(128, 0, 64, 20)
    made = edit(models, fill, prompt_settings, reporter, panorama, mask)[0]
    assert np.array_equal(made.panorama[~mask], panorama[~mask])
    assert made.recipe.settings.guidance_scale == 30
    with pytest.raises(WeightsError, match="Fill"):
        generate(models, fill, prompt_settings, reporter, np.zeros((60, 80, 3), np.float32), View(fov=60))
    models.clear()
    with pytest.raises(WeightsError, match="Fill"):
        generate(models, fill, prompt_settings, reporter, np.zeros((60, 80, 3), np.float32), View(fov=60))


@pytest.mark.slow
def test_large_edits_keep_pixels_outside_the_mask(models, flux, prompt_settings, reporter, in_windows):
    panorama, mask = sunny_panorama(384), disc(384, 0, 200, 60)
    made = edit(models, flux, changed(prompt_settings, **LARGE), reporter, panorama, mask)[0].panorama
    assert np.array_equal(made[~mask], panorama[~mask])
    assert np.abs(made - panorama)[mask].mean() > 0.05
    assert seam_metrics.seam(np.log1p(made)[mask.any(axis=1)]).percentile < 1


# Bad input


@pytest.mark.parametrize(
    ("panorama", "mask", "strength", "message"),
    [
        (sunny_panorama(), np.ones((64, 128), bool), 1.0, "256 × 128"),
        (sunny_panorama(), np.zeros((128, 256), bool), 1.0, "empty"),
        (sunny_panorama(), np.ones((128, 256), bool), 0.0, "strength"),
        (sunny_panorama(), np.ones((128, 256), bool), 1.5, "strength"),
        (sunny_panorama()[:, 1:], None, 1.0, "2:1"),
        (sunny_panorama()[:, :128], None, 1.0, "2:1"),
        (sunny_panorama() * np.nan, None, 1.0, "not a number"),
    ],
)
def test_invalid_edit_is_rejected(models, flux, prompt_settings, reporter, panorama, mask, strength, message):
    with pytest.raises(InputError, match=message):
        edit(models, flux, prompt_settings, reporter, panorama, mask, strength)


def test_edit_without_prompt_or_with_omnix_is_rejected(models, flux, prompt_settings, reporter):
    mask = disc(128, 50, 50, 15)
    with pytest.raises(SettingError, match="needs a prompt"):
        edit(models, flux, changed(prompt_settings, prompt=""), reporter, sunny_panorama(), mask)
    with pytest.raises(SettingError, match="OmniX"):
        edit(models, flux, changed(prompt_settings, method="omnix"), reporter, sunny_panorama(), mask)
