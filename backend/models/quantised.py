"""Linear layers whose weights stay in memory as a quantised file stores them, and are decoded for each product.

Only memory is saved, not time: the products are those of the decoded weights. The weights are kept as bytes, so that
nothing that casts a network, as PEFT does, changes them.
"""

from __future__ import annotations

import gguf
import torch
import torch.nn.functional as F
from diffusers.quantizers.gguf.utils import dequantize_functions
from torch import Tensor, nn

#: Name of a storage, as in a safetensors header → its dtype. A scale per row or per tensor may belong to it.
FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
EIGHT_BIT = {**FLOAT8, "I8": torch.int8}
#: Name of one of GGUF's types → that type. Its scales are in its blocks.
GGUF = {kind.name: kind for kind in dequantize_functions if kind != gguf.GGMLQuantizationType.BF16}

#: Weights decoded at once: bounds the float32 copies.
_CHUNK = 2**24


def is_quantised(storage: str) -> bool:
    """Return whether weights of this storage are kept as they are."""
    return storage in EIGHT_BIT or storage in GGUF


def row_bytes(storage: str, columns: int) -> int:
    """Return the bytes of a row of `columns` weights."""
    if storage in EIGHT_BIT:
        return columns
    block, size = gguf.GGML_QUANT_SIZES[GGUF[storage]]
    return columns // block * size


class QuantisedLinear(nn.Linear):
    """A Linear that keeps its weight as bytes, (out_features, bytes of a row), with a scale (out_features, 1) or none.

    `storage` is the name of their format. Biases and inputs have the precision of the products. It is made without
    weights, on the meta device, for `load_state_dict(…, assign=True)`.
    """

    weight_scale: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool, storage: str, scaled: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.storage = in_features, out_features, storage

        def parameter(*shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)

        self.weight = parameter(out_features, row_bytes(storage, in_features), dtype=torch.uint8)
        self.register_parameter("weight_scale", parameter(out_features, 1, dtype=torch.float32) if scaled else None)
        self.register_parameter("bias", parameter(out_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features), in the precision of the input."""
        return F.linear(input, self.decoded(input.dtype), self.bias)

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out_features, in_features), computed in float32 and rounded to `dtype`."""
        weight = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)
        step = max(1, _CHUNK // self.in_features)
        for begin in range(0, self.out_features, step):
            rows = slice(begin, begin + step)
            part = decode(self.weight[rows], self.storage)
            weight[rows] = part if self.weight_scale is None else part * self.weight_scale[rows]
        return weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, storage={self.storage}"


def decode(stored: Tensor, storage: str) -> Tensor:
    """Decode bytes (rows, bytes of a row) to float32 (rows, columns), without their scale."""
    if storage in EIGHT_BIT:
        return stored.view(EIGHT_BIT[storage]).to(torch.float32)
    kind = GGUF[storage]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # diffusers' own layers decode in float16, which differs by 3e-4.
    return dequantize_functions[kind](stored.reshape(-1, size), block, size, torch.float32).reshape(len(stored), -1)


def replace_linears(network: nn.Module, storages: dict[str, str], scaled: set[str]) -> None:
    """Replace the Linears named by `storages` (module → storage of its weight) by QuantisedLinears without weights.

    `scaled` names those that have a scale. Modules that are no Linear stay.
    """
    for name, storage in storages.items():
        linear = network.get_submodule(name)
        if isinstance(linear, nn.Linear):
            new = QuantisedLinear(
                linear.in_features, linear.out_features,
                bias=linear.bias is not None, storage=storage, scaled=name in scaled,
            )  # fmt: skip
            network.set_submodule(name, new)


def stored(linear: nn.Linear, storage: str, weight: Tensor, scale: Tensor | None = None) -> QuantisedLinear:
    """Return a Linear with the bias of `linear`, and a weight and a scale as QuantisedLinear has them."""
    new = QuantisedLinear(
        linear.in_features, linear.out_features,
        bias=linear.bias is not None, storage=storage, scaled=scale is not None,
    )  # fmt: skip
    found = {"weight": weight, "weight_scale": scale, "bias": linear.bias}
    new.load_state_dict({name: tensor for name, tensor in found.items() if tensor is not None}, assign=True)
    return new.requires_grad_(False)


def in_block(name: str) -> bool:
    """Return whether a module or tensor of this name is in one of the network's blocks."""
    return "blocks." in name


def round_to_int8(network: nn.Module) -> None:
    """Round the weights of the blocks' Linears to 8-bit integers with a scale per row. Quantised ones stay."""
    for name, linear in list(network.named_modules()):
        if in_block(name) and type(linear) is nn.Linear:
            weight = linear.weight.float()
            scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
            integers = (weight / scale).round().to(torch.int8).view(torch.uint8)
            network.set_submodule(name, stored(linear, "I8", integers, scale))
