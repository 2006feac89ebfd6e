"""The files of the starter (backend/starter): size, classes, adapters."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models import AutoencoderKL, FluxTransformer2DModel
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file

import panoform.backend

STARTER = Path(panoform.backend.__file__).parent / "starter"
STREAMS = {
    "rgb_to_depth": ("rgb", "depth"),
    "rgb_to_normal": ("rgb", "normal"),
    "rgb_to_albedo": ("rgb", "albedo"),
    "rgb_to_pbr": ("rgb", "pbr"),
    "rgb_to_semantic": ("rgb", "semantic"),
    "image_to_pano": ("masked_rgb", "filled_rgb"),
}
#: PEFT targets of OmniX: six a double block, three a single block.
DOUBLE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v")


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(STARTER / "transformer")


def test_starter_is_at_most_40_megabytes():
    """Without the model that completes views, which has a limit of its own (test_completion.py)."""
    files = [path for path in STARTER.rglob("*") if path.is_file() and STARTER / "views" not in path.parents]
    assert sum(path.stat().st_size for path in files) <= 40_000_000


def test_every_weight_is_float16_and_finite():
    files = list(STARTER.rglob("*.safetensors"))
    assert len(files) == 12 + 3 + 3  # adapters; transformer, VAE, prompt; the model that completes views
    for path in files:
        for key, value in load_file(path).items():
            assert value.dtype == torch.float16, (path, key)
            assert value.isfinite().all(), (path, key)


def test_vae_has_flux_latents():
    vae = AutoencoderKL.from_pretrained(STARTER / "vae")
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 64, 128)).latent_dist.mode()
        assert latents.shape == (1, 16, 8, 16)
        assert vae.decode(latents).sample.shape == (1, 3, 64, 128)


def test_scheduler_has_the_shifts_of_flux():
    config = FlowMatchEulerDiscreteScheduler.from_pretrained(STARTER / "scheduler").config
    expected = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(("task", "stream"), [(task, stream) for task in STREAMS for stream in STREAMS[task]])
def test_adapter_has_exactly_the_required_modules(task, stream, transformer):
    state = load_file(STARTER / "adapters" / task / stream / "pytorch_lora_weights.safetensors")
    expected = {}
    for blocks, names in (("transformer_blocks", DOUBLE), ("single_transformer_blocks", SINGLE)):
        for index in range(len(getattr(transformer, blocks))):
            for name in names:
                linear = transformer.get_submodule(f"{blocks}.{index}.{name}")
                key = f"transformer.{blocks}.{index}.{name}"
                expected[f"{key}.lora_A.weight"] = (24, linear.in_features)
                expected[f"{key}.lora_B.weight"] = (linear.out_features, 24)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_prompt_embeds_fit_the_transformer(transformer):
    prompt = load_file(STARTER / "prompt_embeds.safetensors")
    tokens = prompt["prompt_embeds"].shape[1]
    assert prompt["prompt_embeds"].shape == (1, tokens, transformer.config["joint_attention_dim"])
    assert prompt["pooled_prompt_embeds"].shape == (1, transformer.config["pooled_projection_dim"])


def test_panoform_json_has_the_sampling_options():
    info = json.loads((STARTER / "panoform.json").read_text(encoding="utf-8"))
    assert isinstance(info["trained"], bool)
    assert info["num_inference_steps"] == 1
    assert info["start"] == "condition"
    assert info["height"] % 16 == 0
    assert info["decode"]["distance"] == {"encoding": "log", "ratio": 128.0}
