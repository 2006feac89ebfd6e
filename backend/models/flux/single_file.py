"""Convert single-file FLUX checkpoints, in the naming of Black Forest Labs and ComfyUI, to diffusers' naming.

diffusers' own converter works for 3072-wide models only and looks up configs on the hub; this one reads every size from
the tensors and fetches nothing. A test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from ....shared.protocol.errors import WeightsError
from . import bfl_names

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
_VAE_GROUPS = 32
_TRANSFORMER_HINT = "Use FLUX.1-dev as Black Forest Labs publish it (flux1-dev.safetensors), or a diffusers folder."
_VAE_HINT = "Use FLUX.1-dev's ae.safetensors."

_BLOCKS = {
    "double_blocks": ("transformer_blocks", bfl_names.DOUBLE),
    "single_blocks": ("single_transformer_blocks", bfl_names.SINGLE),
}
_BLOCK_KEY = re.compile(r"(?P<blocks>double_blocks|single_blocks)\.(?P<index>\d+)\.(?P<module>.+)\.(?P<kind>\w+)")


def transformer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert BFL keys (prefix removed) to diffusers'. Fused projections become views; unknown keys are kept."""
    converted = {}
    width = state["img_in.weight"].shape[0]
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        if found := _BLOCK_KEY.fullmatch(key):
            blocks, table = _BLOCKS[found["blocks"]]
            kind = "weight" if found["kind"] == "scale" else found["kind"]
            names = [f"{blocks}.{found['index']}.{name}" for name in table.get(found["module"], [found["module"]])]
        else:
            names = [bfl_names.OUTER.get(module, module)]
        # A tensor of a wrong shape is not refused here: its parts fit no module, which the caller reports.
        tensor = torch.atleast_1d(tensor)
        parts = tensor.tensor_split([width * part for part in range(1, len(names))])
        if module == "final_layer.adaLN_modulation.1":
            # BFL stores (shift, scale), diffusers (scale, shift).
            parts = [torch.cat(tensor.chunk(2)[::-1])]
        converted |= {f"{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
    return converted


def transformer_config(shapes: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Any]:
    """Derive the FluxTransformer2DModel config from the shapes of BFL tensors. Raise WeightsError for others."""

    def shape(key: str, dims: int) -> tuple[int, ...]:
        return _shape(shapes, key, dims, f"{file} is not a FLUX checkpoint", _TRANSFORMER_HINT)

    width, in_channels = shape("img_in.weight", 2)
    (head_dim,) = shape("double_blocks.0.img_attn.norm.query_norm.scale", 1)
    shape("single_blocks.0.linear1.weight", 2)
    if head_dim != _HEAD_DIM or width % _HEAD_DIM:
        raise WeightsError(
            f"{file} is not FLUX.1: its attention heads are {head_dim} wide (double_blocks.0.img_attn.norm.query_norm."
            f"scale), its img_in.weight {width}, not {_HEAD_DIM} and a multiple of it.", _TRANSFORMER_HINT,
        )  # fmt: skip
    return {
        "in_channels": in_channels,
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "attention_head_dim": head_dim,
        "num_attention_heads": width // head_dim,
        "joint_attention_dim": shape("txt_in.weight", 2)[1],
        "pooled_projection_dim": shape("vector_in.in_layer.weight", 2)[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": _AXES_DIMS_ROPE,
    }


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, dims: int, refusal: str, hint: str) -> tuple[int, ...]:
    """Return the shape of tensor `key`. Raise WeightsError unless it exists with `dims` dimensions."""
    found = shapes.get(key)
    if found is None:
        raise WeightsError(f"{refusal}: it has no {key}.", hint)
    if len(found) != dims or 0 in found:
        raise WeightsError(f"{refusal}: its {key} is of shape {found}.", hint)
    return found


def _count(shapes: Mapping[str, tuple[int, ...]], blocks: str) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith(blocks + ".")})


def vae_state(state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Convert BFL keys of the VAE (ae.safetensors, prefix removed) to AutoencoderKL's. `config` is `vae_config`'s."""
    return convert_ldm_vae_checkpoint(dict(state), config)


def vae_config(shapes: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Any]:
    """Derive the config of FLUX's AutoencoderKL from the shapes of its tensors. Raise WeightsError for others."""
    refusal = f"The VAE in {file} is not FLUX's"
    key, widths = "encoder.down.0.block.0.conv1.weight", []
    while not widths or key in shapes:
        width = _shape(shapes, key, 4, refusal, _VAE_HINT)[0]
        if width % _VAE_GROUPS:
            raise WeightsError(f"{refusal}: its {key} is {width} wide, no multiple of {_VAE_GROUPS}.", _VAE_HINT)
        widths.append(width)
        key = f"encoder.down.{len(widths)}.block.0.conv1.weight"
    # diffusers' converter requires these; other missing tensors are reported after it.
    for key in shapes:
        if key.endswith("sample.conv.weight"):
            _shape(shapes, key.removesuffix("weight") + "bias", 1, refusal, _VAE_HINT)
    latent_channels = _shape(shapes, "decoder.conv_in.weight", 4, refusal, _VAE_HINT)[1]
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "norm_num_groups": _VAE_GROUPS,
        "latent_channels": latent_channels,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
