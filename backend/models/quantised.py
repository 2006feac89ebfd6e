"""Linear layers whose weights stay in memory as a quantised file stores them, and are decoded for each product.

Only memory is saved, not time; batches that are computed in turn can share what is decoded (`decoded_once`), and
compiled blocks take it from there: each storage and shape would be compiled anew. The products are those of the decoded
weights. The weights are kept as bytes, so that nothing that casts a network, as PEFT does, changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gguf
import torch
import torch.nn.functional as F
from diffusers.quantizers.gguf.utils import dequantize_functions
from torch import Tensor, nn

#: Name of a storage, as in a safetensors header → its dtype. A scale for each row may belong to it.
FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
EIGHT_BIT = {**FLOAT8, "I8": torch.int8}
#: Name of one of GGUF's types → that type. Its scales are in its blocks.
GGUF = {kind.name: kind for kind in dequantize_functions if kind != gguf.GGMLQuantizationType.BF16}

#: bitsandbytes' nf4: two weights in a byte, the first in its upper half, each one of NF4_VALUES (from arXiv 2305.14314)
#: times the scale of its block in the row.
NF4_BLOCK = 64
NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
#: Name of a precision that weights can be rounded to when they are loaded → its storage.
ROUNDINGS = {"int8": "I8", "nf4": "NF4"}

#: Weights decoded at once: bounds the float32 copies.
_CHUNK = 2**23


def is_quantised(storage: str) -> bool:
    """Return whether weights of this storage are kept as they are."""
    return storage in EIGHT_BIT or storage == "NF4" or storage in GGUF


def row_bytes(storage: str, columns: int) -> int:
    """Return the bytes of a row of `columns` weights."""
    if storage in EIGHT_BIT:
        return columns
    if storage == "NF4":
        return columns // 2
    block, size = gguf.GGML_QUANT_SIZES[GGUF[storage]]
    return columns // block * size


class QuantisedLinear(nn.Linear):
    """A Linear that keeps its weight as bytes, (out_features, bytes of a row), and its scales.

    `storage` is the name of their format. `scales` is the number of scales in a row, each for equally many columns:
    (out_features, scales) float32; 0: none. Biases and inputs have the precision of the products. It is made without
    weights, on the meta device, for `load_state_dict(…, assign=True)`.
    """

    weight_scale: nn.Parameter | None
    #: The decoded weight; see `decoded_once`.
    _kept: Tensor | None = None

    def __init__(self, in_features: int, out_features: int, *, bias: bool, storage: str, scales: int = 0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.storage = in_features, out_features, storage

        def parameter(*shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)

        self.weight = parameter(out_features, row_bytes(storage, in_features), dtype=torch.uint8)
        self.register_parameter(
            "weight_scale", parameter(out_features, scales, dtype=torch.float32) if scales else None
        )
        self.register_parameter("bias", parameter(out_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features), in the precision of the input."""
        weight = self.decoded(input.dtype) if self._kept is None else self._kept
        return F.linear(input, weight, self.bias)

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out_features, in_features), computed in float32 and rounded to `dtype`."""
        if self.storage in FLOAT8 and self.weight_scale is None:
            return self.weight.view(FLOAT8[self.storage]).to(dtype)  # exact: all these dtypes have more bits
        weight = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)
        step = max(1, _CHUNK // self.in_features)
        for begin in range(0, self.out_features, step):
            rows = slice(begin, begin + step)
            part = decode(self.weight[rows], self.storage)
            if self.weight_scale is not None:
                scales = self.weight_scale[rows]
                part = (part.unflatten(1, (scales.shape[1], -1)) * scales[:, :, None]).flatten(1)
            weight[rows] = part
        return weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, storage={self.storage}"


@contextmanager
def decoded_once(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Decode the weights of the QuantisedLinears in `network` to `dtype`, that of their inputs, for the block."""
    linears = [module for module in network.modules() if isinstance(module, QuantisedLinear)]
    try:
        for linear in linears:
            linear._kept = linear.decoded(dtype)
        yield
    finally:
        for linear in linears:
            linear._kept = None


def decode(stored: Tensor, storage: str) -> Tensor:
    """Decode bytes (rows, bytes of a row) to float32 (rows, columns), without their scale."""
    if storage in EIGHT_BIT:
        return stored.view(EIGHT_BIT[storage]).to(torch.float32)
    if storage == "NF4":
        values = torch.tensor(NF4_VALUES, device=stored.device)
        return torch.cartesian_prod(values, values)[stored.int()].flatten(1)  # both values of a byte
    kind = GGUF[storage]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # diffusers' own layers decode in float16, which differs by 3e-4.
    return dequantize_functions[kind](stored.reshape(-1, size), block, size, torch.float32).reshape(len(stored), -1)


def replace_linears(network: nn.Module, storages: dict[str, str], scales: dict[str, int]) -> None:
    """Replace the Linears named by `storages` (module → storage of its weight) by QuantisedLinears without weights.

    `scales` has the numbers of scales in their rows, where they have any. Modules that are no Linear stay.
    """
    for name, storage in storages.items():
        linear = network.get_submodule(name)
        if isinstance(linear, nn.Linear):
            new = QuantisedLinear(
                linear.in_features, linear.out_features,
                bias=linear.bias is not None, storage=storage, scales=scales.get(name, 0),
            )  # fmt: skip
            network.set_submodule(name, new)


def stored(linear: nn.Linear, storage: str, weight: Tensor, scale: Tensor | None = None) -> QuantisedLinear:
    """Return a Linear with the bias of `linear`, and a weight and a scale as QuantisedLinear has them."""
    new = QuantisedLinear(
        linear.in_features, linear.out_features,
        bias=linear.bias is not None, storage=storage, scales=0 if scale is None else scale.shape[1],
    )  # fmt: skip
    found = {"weight": weight, "weight_scale": scale, "bias": linear.bias}
    new.load_state_dict({name: tensor for name, tensor in found.items() if tensor is not None}, assign=True)
    return new.requires_grad_(False)


def rounds(name: str, tensor: Tensor, storage: str) -> bool:
    """Return whether the tensor `name` of a network is rounded: the matrices of its blocks, nearly all weights."""
    return "blocks." in name and tensor.ndim == 2 and (storage != "NF4" or tensor.shape[1] % NF4_BLOCK == 0)


def scales_in_row(storage: str, columns: int) -> int:
    """Return the number of scales in a row of weights that are rounded."""
    return columns // NF4_BLOCK if storage == "NF4" else 1


def round_linears(network: nn.Module, storage: str) -> None:
    """Round the weights of the blocks' Linears to "I8" or "NF4". Those that are quantised stay."""
    encode = {"I8": _to_int8, "NF4": _to_nf4}[storage]
    for name, linear in list(network.named_modules()):
        if type(linear) is nn.Linear and rounds(f"{name}.weight", linear.weight, storage):
            network.set_submodule(name, stored(linear, storage, *encode(linear.weight.float())))


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers, as bytes, and their scales, one for each row."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scale).round().to(torch.int8).view(torch.uint8), scale


def _to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of the nearest NF4_VALUES, two in a byte, and the scales of the blocks."""
    blocks = weight.unflatten(1, (-1, NF4_BLOCK))
    scale = blocks.abs().amax(2).clamp(min=torch.finfo(torch.float32).tiny)
    values = torch.tensor(NF4_VALUES)
    numbers = torch.bucketize(blocks / scale[:, :, None], (values[1:] + values[:-1]) / 2).to(torch.uint8).flatten(1)
    return numbers[:, ::2] << 4 | numbers[:, 1::2], scale
