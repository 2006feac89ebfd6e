"""Read single-file Stable Diffusion 2 checkpoints, in the naming of Stability AI.

diffusers converts the names; the configs, which it would look up on the hub, are derived from the tensors' shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ....shared.protocol.errors import WeightsError
from .. import parts
from ..parts import Header, Part

UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
#: In the name of a file whose model predicts v (2.1-768); the tensors don't tell.
_V_PREDICTION = "768"
#: Width of an attention head in the U-Net and in the text encoder.
_HEAD_DIM = 64
_GROUPS = 32
_HINT = "Use Stable Diffusion 2.1-base (v2-1_512-ema-pruned.safetensors), or a diffusers folder."
#: The base model's own scheduler.
_SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def scheduler_config(file: Path) -> dict[str, Any]:
    """Return the config of the base model's PNDMScheduler."""
    return _SCHEDULER | {"prediction_type": "v_prediction" if _V_PREDICTION in file.name else "epsilon"}


def unet(file: Path, header: Header) -> Part:
    """Return the U-Net of a file. Raise WeightsError if it is not that of Stable Diffusion 2."""
    tensors = parts.within(header, UNET_PREFIX)
    shapes = {key: shape for key, (_, shape) in tensors.items()}
    first = _shape(shapes, "input_blocks.0.0.weight", 4, file)
    text = _shape(shapes, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 2, file)
    projection = shapes.get("input_blocks.1.1.proj_in.weight", ())
    # Each level has two blocks and one that halves the size.
    widths: list[int] = []
    while (key := f"input_blocks.{3 * len(widths) + 1}.0.out_layers.3.weight") in shapes:
        widths.append(shapes[key][0])
    attends = [f"input_blocks.{3 * level + 1}.1.proj_in.weight" in shapes for level in range(len(widths))]
    config = {
        "in_channels": first[1],
        "out_channels": 4,
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "down_block_types": tuple("CrossAttnDownBlock2D" if some else "DownBlock2D" for some in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if some else "UpBlock2D" for some in reversed(attends)),
        "attention_head_dim": tuple(width // _HEAD_DIM for width in widths),  # diffusers' name for their number
        "cross_attention_dim": text[1],
        "use_linear_projection": len(projection) == 2,
        "sample_size": 64,
    }

    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return convert_ldm_unet_checkpoint({UNET_PREFIX + key: tensor for key, tensor in state.items()}, config)

    return Part(UNet2DConditionModel, config, (file,), UNET_PREFIX, tensors, convert)


def vae(file: Path, header: Header) -> Part:
    """Return the VAE of a file. Raise WeightsError if it has none."""
    tensors = parts.within(header, VAE_PREFIX)
    shapes = {key: shape for key, (_, shape) in tensors.items()}
    key, widths = "encoder.down.0.block.0.conv1.weight", []
    while not widths or key in shapes:
        widths.append(_shape(shapes, key, 4, file)[0])
        key = f"encoder.down.{len(widths)}.block.0.conv1.weight"
    config = {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": _GROUPS,
        "sample_size": 512,
    }
    return Part(AutoencoderKL, config, (file,), VAE_PREFIX, tensors, partial(_vae_state, config=config))


def _vae_state(state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return convert_ldm_vae_checkpoint({VAE_PREFIX + key: tensor for key, tensor in state.items()}, config)


def text_encoder(state: Mapping[str, Tensor], file: Path) -> CLIPTextModel:
    """Return the text encoder from its tensors, without prefix. Raise WeightsError if it is not whole.

    OpenCLIP's last block is not used by Stable Diffusion 2.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    tokens, width = _shape(shapes, "token_embedding.weight", 2, file)
    positions = _shape(shapes, "positional_embedding", 2, file)[0]
    blocks = len({key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")})
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens, hidden_size=width, max_position_embeddings=positions, num_hidden_layers=blocks - 1,
            intermediate_size=_shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2, file)[0],
            num_attention_heads=width // _HEAD_DIM, hidden_act="gelu", projection_dim=512,
            bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
    )  # fmt: skip
    used = {
        TEXT_PREFIX + key: tensor
        for key, tensor in state.items()
        if not key.startswith(f"transformer.resblocks.{blocks - 1}.") and key != "text_projection"
    }
    converted = convert_open_clip_checkpoint(model, used)
    if not hasattr(model, "text_model"):  # transformers from 5.6 on
        converted = {key.removeprefix("text_model."): tensor for key, tensor in converted.items()}
    own = {key for key in model.state_dict() if not key.endswith("position_ids")}
    if missing := sorted(own - converted.keys()):
        raise WeightsError(f"The text encoder in {file} lacks {len(missing)} tensors ({missing[0]}).", _HINT)
    model.load_state_dict(converted, strict=False)
    return model


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, dims: int, file: Path) -> tuple[int, ...]:
    """Return the shape of tensor `key`. Raise WeightsError unless it exists with `dims` dimensions."""
    found = shapes.get(key)
    if found is None or len(found) != dims or 0 in found:
        state = f"has no {key}" if found is None else f"has a {key} of shape {found}"
        raise WeightsError(f"{file} is not Stable Diffusion 2: it {state}.", _HINT)
    return found
