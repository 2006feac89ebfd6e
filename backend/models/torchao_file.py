"""Read weights as torchao stores them in diffusers folders: int8 and 8-bit floats, without torchao.

The weight `X.weight` is `X._weight_qdata` times `X._weight_scale`: one for each row, for each group of columns in a
row, or for all. Zero points are 0 where it is symmetric. Scales of activations are for 8-bit products: not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...shared.protocol.errors import WeightsError
from . import quantised, weights

Header = dict[str, tuple[str, tuple[int, ...]]]

_DATA, _SCALE, _ZERO = "._weight_qdata", "._weight_scale", "._weight_zero_point"
#: Endings of tensors that only describe others.
_PARTS = (_SCALE, _ZERO, "._weight_act_quant_scale")


def is_in(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are as torchao stores them."""
    return any(name.endswith(_DATA) for name in names)


def header(files: Sequence[Path], found: Header, use: str) -> Header:
    """Return the header of what `read` yields: weights as they are stored, and their scales as `X.weight_scale`.

    `found` is that of all files of the network. Raise WeightsError, with the hint `use`, for other formats, and scales
    that don't fit.
    """
    place = (files[0] if len(files) == 1 else files[0].parent).name
    result = {name: value for name, value in found.items() if not name.endswith((*_PARTS, _DATA))}
    for name, (storage, shape) in found.items():
        if not name.endswith(_DATA):
            continue
        module = name.removesuffix(_DATA)
        if storage not in quantised.EIGHT_BIT or len(shape) != 2:
            raise WeightsError(f"{place} is quantised by torchao as {storage}, which isn't read.", use)
        dtype, scale = found.get(module + _SCALE, ("missing", ()))
        if not dtype.startswith(("F", "BF")) or not _fits(scale, shape):
            raise WeightsError(f"{place} is damaged: the scale of {module} is {dtype} of shape {scale}.", use)
        result[f"{module}.weight"] = storage, shape
        result[f"{module}.weight_scale"] = "F32", (shape[0], scale[1])
    for file in files:
        with weights.opened(file) as tensors:
            zeros = (name for name in tensors.keys() if name.endswith(_ZERO))  # noqa: SIM118 - no dict
            if any(tensors.get_tensor(name).any() for name in zeros):
                raise WeightsError(f"{file.name} is quantised by torchao asymmetrically, which isn't read.", use)
    return result


def _fits(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(scale) == 2 and scale[0] in (1, shape[0]) and scale[1] > 0 and shape[1] % scale[1] == 0


def read(header: Header, file: Path, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in `names` that `file` has; `header` is that of all files, as `header` returns it."""
    with weights.opened(file) as tensors:
        present = set(tensors.keys())
        for name in names:
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module + _DATA in present:
                yield name, tensors.get_tensor(module + _DATA)
            elif kind == "weight_scale" and module + _SCALE in present:
                scale: Tensor = tensors.get_tensor(module + _SCALE).float()
                yield name, torch.broadcast_to(scale, header[name][1]).contiguous()
            elif name in present:
                yield name, tensors.get_tensor(name)
