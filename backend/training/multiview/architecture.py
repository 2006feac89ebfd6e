"""The architecture of the multi-view starter: Stable Diffusion 2.1's and MV-Adapter's classes at a small size.

Its folder has the layouts of both: a diffusers folder without text encoder, `mvadapter_ig2mv_sd21.safetensors`, and

    prompt_embeds.safetensors    its learned prompts: prompt_embeds and negative_prompt_embeds, (1, tokens, 64)

All weights are stored in float16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import save_file
from torch import Tensor

from ...models.sd21.adapter import filename
from ...models.sd21.checkpoints import PROMPT_EMBEDS
from ..architecture import prepare_vae, zero_residuals

TASK = "ig2mv"
PROMPT_TOKENS, TEXT_DIM = 2, 64
_WIDTHS = (64, 96, 128)
UNET = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": _WIDTHS,
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": tuple(width // 32 for width in _WIDTHS),  # diffusers' name for the number of heads
    "use_linear_projection": True,
    "norm_num_groups": 16,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 72, 96),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": 256,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,
    "force_upcast": False,
}
#: Stable Diffusion's betas. With trailing timesteps the first step is from pure noise, even in a few steps.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": [None, None],
    "tokenizer": [None, None],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}


def create_vae(seed: int = 0) -> AutoencoderKL:
    """Create an untrained VAE in float32, determined by the seed."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**VAE)
    prepare_vae(vae)
    return vae


def create_unet(seed: int = 0) -> Any:
    """Create an untrained U-Net in float32, without adapter, determined by the seed."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET)
    zero_residuals(unet)
    return unet


def create_encoder() -> T2IAdapter:
    """Create an untrained encoder of control images, for latents smaller by 8."""
    return T2IAdapter(
        in_channels=6, channels=list(_WIDTHS), num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter"
    )


def save(
    folder: Path, vae: AutoencoderKL, unet: dict[str, Tensor], adapter: dict[str, Tensor], prompts: Tensor
) -> None:
    """Write a model's folder, in float16; the VAE is converted.

    `unet`, `adapter`: their tensors by the names in the files. `prompts`: (2, tokens, dim), the negative one last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = UNet2DConditionModel(**UNET)
    model.load_state_dict(unet)
    model.half().save_pretrained(folder / "unet")
    vae.half().save_pretrained(folder / "vae")
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    embeds = {"prompt_embeds": prompts[:1], "negative_prompt_embeds": prompts[1:]}
    for name, content in ((filename(TASK), adapter), (PROMPT_EMBEDS, embeds)):
        half = {key: value.detach().half().cpu().contiguous() for key, value in content.items()}
        save_file(half, folder / name, {"format": "pt"})
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")
