"""The memory that FLUX needs on a device, by its configs. All counts are in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...pipelines.layers.circular_padding import BAND

#: Hidden states of a batch, (rows, tokens, width), that are alive at once at the peak of a single block: traced at
#: FLUX.1-dev's full size with fake tensors in bfloat16. Rotary embeddings are computed in float32, in two of them each.
_ALIVE = 17.3
#: The same that each batch keeps between its turns.
_WAITING = 1.05
#: Feature maps of the VAE's second width at the panorama's size that are alive at once, traced likewise.
_FEATURES = 3.04
#: float32 copies of quantised weights while they are decoded, in parts of 2^23 weights.
_DECODED_AT_ONCE = 2**27
#: For buffers of the device's libraries, memory lost between allocations (0.5 GiB measured), and other programs.
_MARGIN = 1.2 * 2**30
#: Tokens of the prompt; columns of tokens beyond the seam; rank of OmniX's adapters; steps of the longest preset.
_TEXT, _EXTENSION, _RANK, _STEPS = 512, 3, 64, 50


@dataclass(frozen=True)
class Need:
    """What a job needs on a device at its peak."""

    #: With all weights on the device.
    everything: int
    #: With all weights that are used while denoising; those of modulation are used before, one by one.
    denoising: int
    #: With two blocks on the device, and the others streaming.
    least: int


def activations(rows: Sequence[int], tokens: int, width: int, dtype: torch.dtype) -> int:
    """Return what a step needs beside weights and adapters, for batches of `rows` sequences of `tokens` each.

    `tokens` are those of text and image; `width` is the transformer's.
    """
    state = tokens * width * dtype.itemsize
    return int(state * (_ALIVE * max(rows) + _WAITING * sum(rows)) + _MARGIN)


def decoded_weights(whole_blocks: bool, width: int, dtype: torch.dtype) -> int:
    """Return what a quantised transformer needs for its decoded weights: those of a Linear, or of a block.

    Batches share those of a block, and compiled blocks need them (`quantised.decoded_once`).
    """
    return int((24 if whole_blocks else 5) * width**2 * dtype.itemsize + _DECODED_AT_ONCE)


def cached(rows: Sequence[int], tokens: int, width: int, dtype: torch.dtype) -> int:
    """Return what the first-block cache keeps and computes with, at most: three changes of all tokens."""
    return 3 * sum(rows) * tokens * width * dtype.itemsize


def decoding(vae: Mapping[str, Any], pixels: int, dtype: torch.dtype) -> int:
    """Return what the VAE needs beside its weights to decode so many pixels at once."""
    features = pixels * vae["block_out_channels"][1] * _FEATURES
    return int((features + 1.5 * BAND) * dtype.itemsize + _MARGIN)


def perception(
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    transformer_bytes: int,
    vae_bytes: int,
    rows: Sequence[int],
    height: int,
    decoded: int,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    compiled: bool = False,
) -> Need:
    """Return what tasks of `rows` streams each need in one pass, for maps of `height`, `decoded` pixels at once.

    `transformer` and `vae` are configs, the bytes those of their weights in memory.
    `compiled`: whether its blocks are.
    """
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    doubles, singles = transformer["num_layers"], transformer["num_single_layers"]
    # Parameters of the weights of a block, in width²; biases and the rest are less than 1 %
    double, single = 24, 12
    modulation = 12 * doubles + 3 * singles + 2
    counted = (double * doubles + single * singles + modulation) * width**2
    other = transformer["in_channels"] + transformer["joint_attention_dim"] + transformer["pooled_projection_dim"]
    per_parameter = transformer_bytes / (counted + (other + 4 * width) * width)
    blocks = (double * doubles + single * singles) * width**2 * per_parameter
    factors = sum(rows) * _RANK * width * dtype.itemsize
    adapters = (18 * doubles + 6 * singles) * factors
    tokens = height // 16 * (2 * height // 16 + _EXTENSION) + _TEXT
    table = _STEPS * modulation * width * dtype.itemsize
    step = activations(rows, tokens, width, dtype) + table
    if per_parameter < 0.9 * dtype.itemsize:
        step += decoded_weights(len(rows) > 1 or compiled, width, dtype)
    picture = decoding(vae, decoded, vae_dtype)
    rest = transformer_bytes - blocks - modulation * width**2 * per_parameter + vae_bytes
    buffers = 2 * (double * width**2 * per_parameter + 18 * factors)
    return Need(
        everything=int(transformer_bytes + vae_bytes + max(adapters + step, picture)),
        denoising=int(rest + max(blocks + adapters + step, picture)),
        least=int(rest + max(buffers + step, picture)),
    )
