"""DiT360 compared with the reference's values; and seams, edits and tiles, which the reference lacks."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from panoform.backend.evaluation import seam_metrics
from panoform.backend.models import lora
from panoform.backend.models.flux.checkpoints import STARTER
from panoform.backend.models.links import ThreadLink
from panoform.backend.pipelines import dit360, panorama_pipeline
from panoform.backend.pipelines.dit360 import DiT360Pipeline, is_fill
from panoform.backend.pipelines.layers import tiling
from panoform.shared.imaging import sphere
from panoform.shared.protocol.errors import (
    AdapterError,
    Cancelled,
    InputError,
    NumericsError,
    PanoramaError,
    SettingError,
    WeightsError,
)

GOLDEN = Path(__file__).parents[2] / "golden"
LORA = GOLDEN / "adapters" / "dit360" / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def plain() -> DiT360Pipeline:
    pipe = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> DiT360Pipeline:
    pipe = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(LORA)
    return pipe


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "dit360_text_to_pano.safetensors")


@pytest.fixture(scope="module")
def call(golden) -> dict:
    index = json.loads((GOLDEN / "index.json").read_text())["dit360_text_to_pano"]
    return {
        "prompt_embeds": golden["prompt_embeds"],
        "pooled_prompt_embeds": golden["pooled_prompt_embeds"],
        "latents": golden["noise"],
        "height": index["height"],
        "width": index["width"],
        "num_inference_steps": index["steps"],
        "guidance_scale": index["guidance_scale"],
        "output_type": "latent",
    }


@pytest.mark.slow
def test_latents_match_the_reference(pipe, golden, call):
    trace = []
    final = pipe(
        **call, resync_padding=False, callback_on_step_end=lambda p, i, t, tensors: trace.append(tensors["latents"])
    ).images
    assert (torch.stack(trace) - golden["trace_packed"]).abs().max() < 1e-4
    assert (final - golden["final_latents"]).abs().max() < 1e-4


@pytest.mark.parametrize("resident", [True, False])
def test_streamed_weights_with_a_lora_give_the_reference_trace(plain, golden, call, resident):
    """The LoRA comes and goes between calls; without it the result is that of weights on the device, bit by bit."""
    streamed, trace = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux"), []
    streamed.set_progress_bar_config(disable=True)
    blocks = [*streamed.transformer.transformer_blocks, *streamed.transformer.single_transformer_blocks]
    largest = max(sum(x.numel() * x.element_size() for x in block.parameters()) for block in blocks)
    link = ThreadLink()
    streamed.stream(link, limit=3 * largest, resident=resident)
    with lora.applied(streamed, LORA):
        final = streamed(
            **call, resync_padding=False, callback_on_step_end=lambda p, i, t, tensors: trace.append(tensors["latents"])
        ).images
    assert (torch.stack(trace) - golden["trace_packed"]).abs().max() < 1e-4
    assert (final - golden["final_latents"]).abs().max() < 1e-4
    assert link.copied > 0 or resident
    assert torch.equal(streamed(**call).images, plain(**call).images)


def test_check_stops_within_a_step(plain, call):
    calls, expected = [], plain(**call).images

    def check() -> None:
        calls.append(None)
        if len(calls) == 6:  # in the second of four blocks of the second step
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        plain(**call, check=check)
    assert torch.equal(plain(**call).images, expected)


def drift(pipe, call, **options) -> float:
    """Return the largest difference between the copied columns and their originals, with two copies on each side."""
    trace = []
    pipe(**call, padding=2, **options, callback_on_step_end=lambda p, i, t, tensors: trace.append(tensors["latents"]))
    columns = torch.stack(trace).unflatten(2, (4, 12))
    differences = columns[..., [0, 1, -2, -1], :] - columns[..., [-4, -3, 2, 3], :]
    return float(differences.abs().max())


def test_copies_beyond_the_seam_stay_equal_to_their_originals(pipe, golden, call):
    assert drift(pipe, call, continue_positions=True) == 0
    assert drift(pipe, call, continue_positions=True, resync_padding=False) > 1e-3
    # With the positions of their originals, copies are identical tokens and can't drift.
    assert drift(pipe, call, resync_padding=False) < 1e-5
    assert (pipe(**call).images - golden["final_latents"]).abs().max() < 1e-4


def test_lora_is_loaded_and_unloaded(plain, golden, call):
    before = plain(**call).images
    plain.load_lora_weights(LORA.parent)
    with_lora = plain(**call).images
    plain.unload_lora_weights()
    assert (before - with_lora).abs().max() > 1e-2
    assert torch.equal(plain(**call).images, before)


@pytest.mark.slow
def test_lora_is_applied_and_removed_where_weights_stream(plain, pipe, call):
    streamed = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    streamed.set_progress_bar_config(disable=True)
    link = ThreadLink()
    streamed.stream(link, resident=False)
    with lora.applied(streamed, LORA):
        assert torch.equal(streamed(**call).images, pipe(**call).images)
    assert link.copied > 0
    assert torch.equal(streamed(**call).images, plain(**call).images)


def test_lora_is_scaled(plain, pipe, call):
    doubled = {key: tensor * (2 if ".lora_B." in key else 1) for key, tensor in lora_state().items()}
    lora.load(plain, doubled, scale=0.5)
    try:
        assert torch.equal(plain(**call).images, pipe(**call).images)
    finally:
        plain.unload_lora_weights()


def lora_state() -> dict[str, torch.Tensor]:
    return load_file(LORA)


KEY = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"


def other_base(state):
    state[KEY] = torch.zeros(4, 3072)


def unknown_module(state):
    state[KEY.replace("blocks.0", "blocks.7")] = torch.zeros(4, 32)


def missing_key(state):
    del state[KEY]


def text_encoder(state):
    state["text_encoder.text_model.layers.0.lora_A.weight"] = torch.zeros(4, 32)


@pytest.mark.parametrize("damage", [other_base, unknown_module, missing_key, text_encoder, dict.clear])
def test_lora_that_does_not_fit_entirely_is_rejected(plain, damage, golden, call, tmp_path):
    before = plain(**call).images
    state = lora_state()
    damage(state)
    file = tmp_path / "löra of mine.safetensors"
    save_file(state, file)
    with pytest.raises(AdapterError, match="löra"):
        plain.load_lora_weights(file)
    assert torch.equal(plain(**call).images, before)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file, but long enough to look like one"])
def test_file_that_is_not_a_lora_is_rejected(plain, content, tmp_path):
    file = tmp_path / "broken.safetensors"
    file.write_bytes(content)
    with pytest.raises(AdapterError, match="broken"):
        plain.load_lora_weights(file)
    with pytest.raises(AdapterError, match="absent"):
        plain.load_lora_weights(tmp_path / "absent.safetensors")


@pytest.mark.slow
def test_batch_equals_single_panoramas(pipe, golden, call):
    noise = torch.cat([golden["noise"], golden["noise"].flip(-1)])
    both = pipe(**{**call, "latents": noise}).images
    single = pipe(**{**call, "latents": noise[1:]}).images
    assert torch.allclose(both[1:], single, atol=1e-5)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    seeded = pipe(**{**call, "latents": None, "generator": generators}).images
    again = pipe(**{**call, "latents": None, "generator": torch.Generator().manual_seed(4)}).images
    assert torch.allclose(seeded[1:], again, atol=1e-5)


def test_true_cfg_scale_extrapolates_from_the_negative_prompt(pipe, golden, call):
    """Scale s gives the velocity negative + s · (positive − negative) at every step."""
    other = {"negative_prompt_embeds": golden["prompt_embeds"].flip(1) * 0.5}
    other["negative_pooled_prompt_embeds"] = -golden["pooled_prompt_embeds"]
    one_step = {**call, "num_inference_steps": 1}
    positive = pipe(**one_step).images
    negative = pipe(
        **{
            **one_step,
            "prompt_embeds": other["negative_prompt_embeds"],
            "pooled_prompt_embeds": other["negative_pooled_prompt_embeds"],
        }
    ).images
    guided = pipe(**one_step, **other, true_cfg_scale=3.0).images
    assert torch.allclose(guided, negative + 3 * (positive - negative), atol=1e-4)
    assert torch.equal(pipe(**one_step, **other).images, positive)


def test_shift_changes_the_timesteps(pipe, call):
    """A fixed shift s maps time t to s·t / (1 + (s − 1)·t)."""
    times = []
    pipe(**call, shift=3.0, callback_on_step_end=lambda p, i, t, tensors: times.append(float(t) / 1000))
    t = torch.linspace(1, 0.25, 4)
    assert torch.allclose(torch.tensor(times), 3 * t / (1 + 2 * t), atol=1e-5)


def picture() -> torch.Tensor:
    x = torch.linspace(0, 2 * torch.pi, 129)[:-1]
    rows = torch.linspace(-0.5, 0.5, 64)[:, None]
    return torch.stack([x.sin() * 0.5 + rows, x.cos() * 0.5 - rows, (2 * x).sin() * 0.3 + rows])[None]


def test_edit_keeps_latents_outside_the_mask(pipe, call):
    mask = torch.zeros(1, 1, 64, 128)
    mask[..., 16:33, :20] = mask[..., 16:33, -9:] = 1  # across the seam
    edited = pipe(**call, image=picture(), mask_image=mask).images
    source = pipe.encode(picture())
    kept = torch.nn.functional.max_pool2d(mask, 8) == 0
    kept = kept.expand_as(source)
    assert torch.allclose(edited[kept], source[kept], atol=1e-5)
    assert (edited - source)[~kept].abs().mean() > 0.1


@pytest.mark.slow
def test_lower_strength_stays_closer_to_the_image(pipe, call):
    source = pipe.encode(picture())
    distances = [
        (pipe(**{**call, "num_inference_steps": 5}, image=picture(), strength=s).images - source).abs().mean()
        for s in (0.2, 0.6, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[0] < distances[-1] / 3


@pytest.mark.slow
def test_tiles_wrap_around(plain, call):
    larger = {**call, "height": 128, "width": 256}
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, 16, 16, 32, generator=generator)
    one = plain(**{**larger, "latents": noise, "tile": (64, 192)}).images
    half_turn = plain(**{**larger, "latents": noise.roll(16, -1), "tile": (64, 192)}).images
    assert torch.allclose(half_turn.roll(-16, -1), one, atol=1e-4)
    assert (one - plain(**{**larger, "latents": noise}).images).abs().max() > 1e-3


@pytest.mark.slow
def test_tile_height_is_limited_to_the_panorama(plain, call):
    larger = {**call, "height": 64, "width": 256, "latents": torch.randn(1, 16, 8, 32)}
    assert torch.equal(plain(**larger, tile=(64, 128)).images, plain(**larger, tile=(1024, 128)).images)


@pytest.mark.slow
def test_large_panoramas_are_decoded_in_tiles(plain, monkeypatch):
    monkeypatch.setattr(panorama_pipeline, "MAX_WHOLE", 100)
    monkeypatch.setattr(panorama_pipeline, "VAE_TILE", 16)
    monkeypatch.setattr(panorama_pipeline, "VAE_OVERLAP", 8)
    latents = torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(6))
    image = plain.decode(latents)
    assert image.shape == (1, 3, 128, 256)
    turned = plain.decode(latents.roll(16, -1)).roll(-128, -1)
    assert torch.allclose(image, turned, atol=1e-5)
    again = plain.encode(image * 2 - 1)
    assert again.shape == latents.shape


@pytest.mark.slow
def test_fill_depends_on_the_mask_and_the_kept_part(plain, call):
    """FLUX.1-Fill's transformer takes 64 + 64 + 256 channels, all of which must affect the result."""
    torch.manual_seed(0)
    config = {**plain.transformer.config, "in_channels": 384, "out_channels": 64}
    fill = DiT360Pipeline(**{**plain.components, "transformer": type(plain.transformer).from_config(config)})
    fill.set_progress_bar_config(disable=True)
    assert is_fill(fill)
    mask = torch.zeros(1, 1, 64, 128)
    mask[..., 16:32, 32:64] = 1
    edits = [
        fill(**call, image=image, mask_image=m).images
        for image, m in ((picture(), mask), (picture().flip(1), mask), (picture(), mask.roll(16, -1)))
    ]
    assert (edits[0] - edits[1]).abs().max() > 1e-3
    assert (edits[0] - edits[2]).abs().max() > 1e-3
    inside = picture() * (1 - mask)
    assert torch.equal(fill(**call, image=inside, mask_image=mask).images, edits[0])  # the masked area is ignored


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"height": 60}, PanoramaError, "multiples of 16"),
        ({"width": 0}, PanoramaError, "multiples of 16"),
        ({"latents": torch.zeros(1, 16, 8, 18)}, PanoramaError, "noise"),
        ({"latents": torch.full((1, 16, 8, 16), math.nan)}, InputError, "NaN or infinite values in the noise"),
        ({"image": torch.zeros(1, 3, 64, 128, dtype=torch.uint8)}, InputError, "image are of type uint8"),
        ({"output_type": "pil"}, SettingError, "output type"),
        ({"num_inference_steps": 0}, SettingError, "from 1 to 1000"),
        ({"num_inference_steps": 2.5}, SettingError, "from 1 to 1000"),
        ({"guidance_scale": math.nan}, SettingError, "guidance_scale is nan"),
        ({"prompt_embeds": torch.zeros(1, 12, 31)}, InputError, r"\(1, 12, 31\) .* instead of"),
        ({"pooled_prompt_embeds": torch.zeros(32)}, InputError, r"\(32,\) instead of"),
        ({"prompt_embeds": torch.full((1, 12, 32), math.nan)}, InputError, "NaN or infinite values in the embeddings"),
        ({"strength": 0.0}, SettingError, "strength"),
        ({"strength": 0.5}, SettingError, "no image"),
        ({"mask_image": torch.ones(1, 1, 64, 128)}, SettingError, "no image"),
        ({"image": torch.zeros(1, 3, 64, 64)}, PanoramaError, "image"),
        ({"image": torch.zeros(1, 3, 64, 128), "mask_image": torch.ones(1, 1, 64, 64)}, PanoramaError, "mask"),
        ({"prompt": "a yard"}, SettingError, "prompt"),
        ({"prompt_embeds": None}, SettingError, "prompt"),
        ({"prompt_embeds": None, "pooled_prompt_embeds": None, "prompt": "a yard"}, WeightsError, "text encoders"),
    ],
)
def test_invalid_arguments_are_rejected(plain, call, change, error, words):
    with pytest.raises(error, match=words):
        plain(**{**call, **change})


def test_nan_names_the_step_and_the_precision(plain, call):
    damaged = torch.nn.Parameter(torch.full((64,), math.nan))
    with (
        mock.patch.object(plain.transformer.proj_out, "bias", damaged),
        pytest.raises(NumericsError, match="after step 1 of 4, computed in float32"),
    ):
        plain(**call)


@contextmanager
def smoother(_transformer, _batches, timesteps, _guidance_scale, img_ids, **_):
    """A denoiser with predictable output: it predicts for each token the mean of its neighbours.

    Noise that is smoothed step by step becomes a picture without edges, except where neighbours are missing. Real
    weights, which have the same effect, are too large for tests.
    """
    positions = img_ids[:, 1:]
    # The weights depend on the tokens' positions only.
    weights = torch.exp(-((positions[:, None] - positions[None]) ** 2).sum(-1) / 8)
    weights /= weights.sum(-1, keepdim=True)
    yield lambda step, hidden_states: [(x - weights @ x) / (timesteps[step] / 1000) for x in hidden_states]


def measure_seams(plain, **options) -> list[seam_metrics.Seam]:
    """Return the seams of tokens generated with `smoother`, for ten seeds."""
    embeds = {"prompt_embeds": torch.zeros(1, 1, 32), "pooled_prompt_embeds": torch.zeros(1, 32)}
    generators = [torch.Generator().manual_seed(seed) for seed in range(10)]
    with mock.patch.object(dit360, "denoiser", smoother):
        latents = plain(
            **embeds, height=256, width=512, num_inference_steps=8, generator=generators, output_type="latent",
            **options,
        ).images  # fmt: skip
    tokens = torch.nn.functional.pixel_unshuffle(latents, 2)  # (N, 4C, rows, columns)
    return [seam_metrics.seam(one.permute(1, 2, 0).numpy()) for one in tokens]


@pytest.mark.slow
def test_padding_removes_the_seam_of_generated_latents(plain):
    """Only copies with continued positions, renewed at every step, remove the seam."""
    on = measure_seams(plain, padding=4, continue_positions=True)
    off = measure_seams(plain, padding=0)
    stale = measure_seams(plain, padding=4, continue_positions=True, resync_padding=False)
    ratio = {
        name: float(np.median([one.ratio for one in each]))
        for name, each in (("on", on), ("off", off), ("stale", stale))
    }
    assert ratio["on"] < 1.3, ratio
    assert ratio["off"] > 3, ratio
    assert ratio["stale"] > ratio["on"], ratio
    assert np.median([one.percentile for one in off]) == 1


@pytest.mark.slow
def test_tiles_leave_no_seam(plain, monkeypatch):
    """Tiles that wrap around leave no seam at 0°; others do."""
    on = measure_seams(plain, tile=(128, 256))
    monkeypatch.setattr(tiling, "_circular_starts", tiling._starts)
    off = measure_seams(plain, tile=(128, 256))
    assert np.median([one.ratio for one in on]) < 1.5
    assert np.median([one.ratio for one in off]) > 3
    assert np.median([one.percentile for one in off]) == 1


@pytest.mark.slow
def test_vae_tiles_leave_no_seam(plain, monkeypatch):
    """In encoded latents and decoded pixels, with the starter's VAE, since a random one outputs noise."""
    vae = AutoencoderKL.from_pretrained(STARTER / "vae")
    pipe = DiT360Pipeline(**{**plain.components, "vae": vae})
    for name, value in (("MAX_WHOLE", 100), ("VAE_TILE", 16), ("VAE_OVERLAP", 8)):
        monkeypatch.setattr(panorama_pipeline, name, value)
    smooth = torch.from_numpy(0.4 * sphere.directions(128, 256)).permute(2, 0, 1)[None]
    grain = 0.02 * torch.randn(1, 3, 128, 256, generator=torch.Generator().manual_seed(7))

    def seam(x: torch.Tensor) -> seam_metrics.Seam:
        return seam_metrics.seam(x[0].permute(1, 2, 0).numpy())

    latents = pipe.encode(smooth + grain)
    on = seam(latents), seam(pipe.decode(latents))
    monkeypatch.setattr(tiling, "_circular_starts", tiling._starts)
    latents = pipe.encode(smooth + grain)
    off = seam(latents), seam(pipe.decode(latents))
    assert max(one.ratio for one in on) < 1.5, on
    assert min(one.ratio for one in off) > 1.8, off
    assert min(one.percentile for one in off) > 0.9, off
