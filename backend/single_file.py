"""FLUX in one .safetensors file, in the naming of Black Forest Labs (ComfyUI's too) → diffusers' naming.

diffusers' own converter works for 3072-wide models only and looks up configs on the hub; this one reads every size from
the tensors and fetches nothing. A test holds the two against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from ..shared.errors import WeightsError

#: Prefixes of the transformer's and the VAE's keys in files that hold both.
TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIXES = ("vae.", "first_stage_model.")

#: FLUX.1-dev's own scheduler.
SCHEDULER = {
    "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096,
}  # fmt: skip
_HEAD_DIM = 128
_AXES_DIMS_ROPE = (16, 56, 56)

_OUTER = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.norm.query_norm": ["attn.norm_q"],
    "img_attn.norm.key_norm": ["attn.norm_k"],
    "txt_attn.norm.query_norm": ["attn.norm_added_q"],
    "txt_attn.norm.key_norm": ["attn.norm_added_k"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
_SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
    "norm.query_norm": ["attn.norm_q"],
    "norm.key_norm": ["attn.norm_k"],
}
_BLOCKS = {"double_blocks": ("transformer_blocks", _DOUBLE), "single_blocks": ("single_transformer_blocks", _SINGLE)}
_BLOCK_KEY = re.compile(r"(?P<blocks>double_blocks|single_blocks)\.(?P<index>\d+)\.(?P<module>.+)\.(?P<kind>\w+)")


def transformer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BFL keys (prefix removed) → diffusers'. Fused projections become views; unknown keys stay as they are."""
    converted = {}
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        if found := _BLOCK_KEY.fullmatch(key):
            blocks, table = _BLOCKS[found["blocks"]]
            kind = "weight" if found["kind"] == "scale" else found["kind"]
            names = [f"{blocks}.{found['index']}.{name}" for name in table.get(found["module"], [found["module"]])]
        else:
            names = [_OUTER.get(module, module)]
        width = state["img_in.weight"].shape[0]
        parts = (
            tensor.split([width] * 3 + [tensor.shape[0] - 3 * width] * (len(names) == 4))
            if len(names) > 1
            else [tensor]
        )
        if module == "final_layer.adaLN_modulation.1":
            # BFL stores (shift, scale), diffusers (scale, shift).
            parts = [torch.cat(tensor.chunk(2)[::-1])]
        converted |= {f"{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
    return converted


def transformer_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the FluxTransformer2DModel that BFL tensors of these shapes are. Raises WeightsError for others."""
    try:
        width, in_channels = shapes["img_in.weight"]
        head_dim = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
        config = {
            "in_channels": in_channels,
            "num_layers": _count(shapes, "double_blocks"),
            "num_single_layers": _count(shapes, "single_blocks"),
            "attention_head_dim": head_dim,
            "num_attention_heads": width // head_dim,
            "joint_attention_dim": shapes["txt_in.weight"][1],
            "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
            "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
            "axes_dims_rope": _AXES_DIMS_ROPE,
        }
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"The file is not a FLUX checkpoint: it has no {error}.",
            "Use FLUX.1-dev as Black Forest Labs publish it (flux1-dev.safetensors), or a diffusers folder.",
        ) from error
    if head_dim != _HEAD_DIM:
        raise WeightsError(f"The file is not FLUX.1: its attention heads are {head_dim} wide, not {_HEAD_DIM}.")
    return config


def _count(shapes: Mapping[str, tuple[int, ...]], blocks: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith(blocks + "."))


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BFL keys of the VAE (ae.safetensors, prefix removed) → AutoencoderKL's."""
    return convert_ldm_vae_checkpoint(dict(state), vae_config({key: tuple(t.shape) for key, t in state.items()}))


def vae_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of FLUX's AutoencoderKL, its widths read from the tensors. Raises WeightsError if they are none."""
    try:
        widths = []
        while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in shapes:
            widths.append(shapes[key][0])
        latent_channels = shapes["decoder.conv_in.weight"][1]
    except (KeyError, IndexError) as error:
        raise WeightsError(f"The VAE is not FLUX's: it has no {error}.", "Use FLUX.1-dev's ae.safetensors.") from error
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "latent_channels": latent_channels,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
