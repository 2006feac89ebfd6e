"""The scales of 8-bit weights in single FLUX files: their spellings, and checks of them by the file's header.

The weight is the stored number times its scale; there is one for the tensor, or one for each row. Three spellings:
`scaled_fp8` and `X.scale_weight` (ComfyUI until 2025), `X.weight_scale` with `X.input_scale` (a header entry
`_quantization_metadata` names the formats), and `X.weight_scale` with `X.comfy_quant`, the format as JSON in bytes.
Scales of inputs are for 8-bit products, and not used: only the weights are stored in 8 bit here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from ....shared import json_file
from ....shared.protocol.errors import WeightsError
from ..parts import Header
from ..weights import opened as open_weights

_ENDINGS = ("weight_scale", "scale_weight")
#: Tensors that say how the file is quantised, or scale inputs.
_NOT_WEIGHTS = ("scaled_fp8", "comfy_quant", "input_scale", "scale_input")
_SCALED = ("F8_E4M3", "F8_E5M2", "I8")
_FLOATS = ("F64", "F32", "F16", "BF16")
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
_METADATA = "_quantization_metadata"
USE = "Use flux1-dev-fp8.safetensors, a GGUF file (Q8_0 to Q4_K_S) or flux1-dev.safetensors."


def canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the scales to `X.weight_scale`, (rows, scales in a row) float32, in a state of BFL names."""
    result = {}
    for key, tensor in state.items():
        module, _, ending = key.rpartition(".")
        if ending in _ENDINGS:
            rows, scale = len(state[f"{module}.weight"]), tensor.float()
            if scale.ndim != 2 or len(scale) != rows:
                scale = scale.reshape(-1, 1).repeat(rows // scale.numel(), 1)
            result[f"{module}.weight_scale"] = scale
        else:
            result[key] = tensor
    return result


def weights(tensors: Header, file: Path, prefix: str) -> Header:
    """Return the tensors that are weights or their scales.

    Raise WeightsError for scales that are missing, that don't fit, or whose format is not read. `tensors` are those of
    a single file, without `prefix`.
    """
    formats = _formats(file, tensors, prefix)
    found = {key: value for key, value in tensors.items() if key.rpartition(".")[2] not in _NOT_WEIGHTS}
    scales = {key.rpartition(".")[0]: value for key, value in found.items() if key.rpartition(".")[2] in _ENDINGS}
    for module, (dtype, shape) in scales.items():
        stored, rows = found.get(f"{module}.weight", ("missing", (0,)))
        if stored not in _SCALED:
            raise WeightsError(f"{file.name} has a scale for {module}.weight, which is {stored}, not in 8 bit.", USE)
        if dtype not in _FLOATS or torch.Size(shape).numel() not in (1, rows[0]):
            raise WeightsError(
                f"{file.name} is quantised in a way that isn't read: the scale of {module}.weight is {dtype} of shape "
                f"{shape}, not one number, nor one for each of its {rows[0]} rows.", USE,
            )  # fmt: skip
    if scales or formats or len(found) < len(tensors):
        unscaled = [
            key
            for key, (dtype, shape) in found.items()
            if dtype in _SCALED and len(shape) == 2 and key.removesuffix(".weight") not in scales
        ]
        if unscaled:
            others = "others have one" if scales else "though it is marked as scaled"
            raise WeightsError(
                f"{file.name} is damaged: {len(unscaled)} of its 8-bit weights have no scale "
                f"({unscaled[0]}), {others}.",
                USE,
            )
    return found


def _formats(file: Path, tensors: Header, prefix: str) -> list[dict[str, Any]]:
    """Return the formats that the file declares. Raise WeightsError for one that is not read."""
    markers = [prefix + key for key in tensors if key.endswith(".comfy_quant")]
    with open_weights(file) as opened:
        texts = [opened.get_tensor(key).numpy().tobytes() for key in markers]
        metadata = (opened.metadata() or {}).get(_METADATA, "{}")
    try:
        formats = [json_file.decode(text, dict[str, Any]) for text in texts]
        layers = json_file.decode(metadata, _Metadata).layers
        formats += [found for name, found in layers.items() if f"{name.removeprefix(prefix)}.weight" in tensors]
    except ValueError as error:
        raise WeightsError(f"{file.name} is damaged: its quantisation can't be read ({error}).", USE) from error
    for found in formats:
        name = str(found.get("format"))
        if name not in _FORMATS or found.get("convrot"):
            rotated = ", rotated (ConvRot)" if found.get("convrot") else ""
            raise WeightsError(f"{file.name} is quantised as {name}{rotated}, which isn't read.", USE)
    return formats


class _Metadata(msgspec.Struct):
    layers: dict[str, dict[str, Any]] = {}
