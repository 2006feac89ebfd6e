"""The starter's architecture: FLUX's own classes at a small size, and its files in the layout of FLUX and OmniX.

A starter folder is a diffusers FLUX folder without text encoders, and in addition:

    adapters/{task}/{stream}/pytorch_lora_weights.safetensors    OmniX's layout on the hub
    prompt_embeds.safetensors    its learned prompt: prompt_embeds (1, tokens, 64), pooled_prompt_embeds (1, 64)
    panoform.json                sampling and decoding options, and whether it is trained

All weights are stored in float16.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import nn

#: Task → streams, the target last (reference: OmniX).
TASKS: dict[str, tuple[str, str]] = {
    "rgb_to_depth": ("rgb", "depth"),
    "rgb_to_normal": ("rgb", "normal"),
    "rgb_to_albedo": ("rgb", "albedo"),
    "rgb_to_pbr": ("rgb", "pbr"),
    "rgb_to_semantic": ("rgb", "semantic"),
    "image_to_pano": ("masked_rgb", "filled_rgb"),
}

RANK = 24
PROMPT_TOKENS = 8
#: Number of rows that positions are scaled to: the token rows of a height of 256 pixels.
POSITION_ROWS = 16
TEXT_DIM = 64
#: Distance is encoded as 1 + log(d / d_max) / log(DISTANCE_RATIO): grey 0 is d_max / DISTANCE_RATIO, grey 1 is d_max.
DISTANCE_RATIO = 128.0

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": TEXT_DIM,
    "pooled_projection_dim": TEXT_DIM,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 14, 14),
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 512,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,
}
#: FLUX.1-dev's own scheduler config.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
PANOFORM = {
    "name": "Starter",
    "trained": False,
    "height": 256,
    "num_inference_steps": 1,
    "guidance_scale": 3.5,
    "start": "condition",
    "position_rows": POSITION_ROWS,
    "turns": 2,
    "waves": 0.01,
    "decode": {"distance": {"encoding": "log", "ratio": DISTANCE_RATIO}, "normal": {"axes": "column"}},
}
MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.38.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": [None, None],
    "text_encoder_2": [None, None],
    "tokenizer": [None, None],
    "tokenizer_2": [None, None],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

_DOUBLE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
_SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v")


def adapted_modules(transformer: FluxTransformer2DModel) -> list[str]:
    """Return the names of the Linears with an OmniX adapter: six per double block, three per single block."""
    return [
        f"{blocks}.{index}.{name}"
        for blocks, names in (("transformer_blocks", _DOUBLE), ("single_transformer_blocks", _SINGLE))
        for index in range(len(getattr(transformer, blocks)))
        for name in names
    ]


def _init_random_signs(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise matrices with random signs, scaled to preserve variance."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            signs = torch.randint(0, 2, parameter.shape, generator=generator).float() * 2 - 1
            parameter.data = signs * parameter[0].numel() ** -0.5


def zero_residuals(module: nn.Module) -> None:
    """Let the residual branches of a VAE or U-Net start from zero."""
    for part in module.modules():
        if type(part).__name__ == "ResnetBlock2D":
            nn.init.zeros_(part.get_submodule("conv2").get_parameter("weight"))


def prepare_vae(vae: AutoencoderKL) -> None:
    """Let a VAE's training start from zero residuals, and from a small variance of the posterior (log −6), so that it
    carries information from the start."""
    zero_residuals(vae)
    bias = vae.encoder.conv_out.bias
    assert bias is not None
    nn.init.constant_(bias[len(bias) // 2 :], -6.0)


def create(seed: int = 0) -> tuple[FluxTransformer2DModel, AutoencoderKL]:
    """Create an untrained transformer and VAE in float32, determined by the seed."""
    generator = torch.Generator().manual_seed(seed)
    transformer = FluxTransformer2DModel(**TRANSFORMER)
    vae = AutoencoderKL(**VAE)
    _init_random_signs(transformer, generator)
    _init_random_signs(vae, generator)
    return transformer, vae


def save(
    folder: Path,
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    adapters: dict[tuple[str, str], dict[str, torch.Tensor]],
    prompt: dict[str, torch.Tensor],
    panoform: dict,
) -> None:
    """Write a starter folder; the models are converted to float16.

    `adapters`: (task, stream) → PEFT keys → weights; `prompt`: the tensors of prompt_embeds.safetensors.
    """
    transformer.half().save_pretrained(folder / "transformer")
    vae.half().save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    for (task, stream), state in adapters.items():
        path = folder / "adapters" / task / stream / "pytorch_lora_weights.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.half().contiguous() for key, value in state.items()}, path, {"format": "pt"})
    save_file({key: value.half().contiguous() for key, value in prompt.items()}, folder / "prompt_embeds.safetensors")
    for name, content in (("model_index.json", MODEL_INDEX), ("panoform.json", panoform)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
