"""The model that completes the six views of a mesh: a U-Net and MV-Adapter's classes at a small size, on pixels.

Its folder has the layout of an MV-Adapter model without VAE and text encoder:

    unet/                                 UNet2DConditionModel, on blocks of `BLOCK` × `BLOCK` pixels instead of latents
    mvadapter_ig2mv_sd21.safetensors      attention between views and to the front, and the encoder of control images
    prompt_embeds.safetensors             its learned prompt: prompt_embeds, (1, tokens, 64)

All weights are stored in float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from ...models.sd21.adapter import filename
from ...models.sd21.checkpoints import PROMPT_EMBEDS
from ...texturing.completion import BLOCK, TASK
from ..architecture import zero_residuals

PROMPT_TOKENS, TEXT_DIM = 2, 64
_WIDTHS, _HEADS = (96, 112, 128), (3, 4, 4)
UNET = {
    "sample_size": 32,
    "in_channels": 4 * BLOCK**2,  # colours, and whether the picture shows the point
    "out_channels": 3 * BLOCK**2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": _WIDTHS,
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": _HEADS,  # diffusers' name for their number
    "use_linear_projection": True,
    "norm_num_groups": 16,
}


def create_unet(seed: int = 0) -> Any:
    """Create an untrained U-Net in float32, without adapter, determined by the seed. It predicts 0."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET)
    zero_residuals(unet)
    torch.nn.init.zeros_(unet.conv_out.weight)
    assert unet.conv_out.bias is not None
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def create_encoder() -> T2IAdapter:
    """Create an untrained encoder of control images."""
    return T2IAdapter(
        in_channels=6, channels=list(_WIDTHS), num_res_blocks=2, downscale_factor=BLOCK, adapter_type="full_adapter"
    )


def save(folder: Path, unet: dict[str, Tensor], adapter: dict[str, Tensor], prompt: Tensor) -> None:
    """Write a model's folder, in float16.

    `unet`, `adapter`: their tensors by the names in the files. `prompt`: (1, tokens, dim).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = UNet2DConditionModel(**UNET)
    model.load_state_dict(unet)
    model.half().save_pretrained(folder / "unet")
    for name, content in ((filename(TASK), adapter), (PROMPT_EMBEDS, {"prompt_embeds": prompt})):
        half = {key: value.detach().half().cpu().contiguous() for key, value in content.items()}
        save_file(half, folder / name, {"format": "pt"})
