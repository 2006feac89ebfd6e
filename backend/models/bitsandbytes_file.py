"""Read weights as bitsandbytes stores them in safetensors files: nf4 and int8, without bitsandbytes.

nf4 is in blocks of 64 weights, two in a byte, each block with a scale, `X.weight.absmax`, which may itself be quantised
(`nested_…`). int8 has a scale for each row, `X.SCB`; its outliers concern 8-bit products only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ...shared import json_file
from ...shared.protocol.errors import WeightsError
from . import quantised, weights

Header = dict[str, tuple[str, tuple[int, ...]]]

_WEIGHT = ".weight"
_STATE = ".quant_state.bitsandbytes__nf4"
_SCALES = ".SCB"
#: Endings of tensors that only describe others.
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", _STATE, _SCALES, ".weight_format")
_INT8 = 127


class _State(msgspec.Struct):
    """The JSON of a weight in nf4."""

    blocksize: int
    shape: tuple[int, int]
    nested_blocksize: int = 0
    nested_offset: float = 0.0


def is_in(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are as bitsandbytes stores them."""
    return any(name.endswith((_STATE, _SCALES)) for name in names)


def header(places: Mapping[str, Path], found: Header, use: str) -> Header:
    """Return the header of what `read` yields: weights as they are stored, and their scales as `X.weight_scale`.

    `found` is that of all files of the network, and `places` tells which file each tensor is in: a weight and its parts
    may be in several. Raise WeightsError, with the hint `use`, where parts are missing or don't fit.
    """
    result = {name: value for name, value in found.items() if not name.endswith(_PARTS)}
    for file in sorted({file for name, file in places.items() if name.endswith(_STATE)}):
        with weights.opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dict
                if name.endswith(_STATE):
                    weight = name.removesuffix(_STATE)
                    try:
                        state = _state(tensors.get_tensor(name))
                    except ValueError as error:
                        raise WeightsError(f"{file.name} is damaged: {name} can't be read ({error}).", use) from error
                    rows, columns = state.shape
                    _check(file, found, weight, state, use)
                    result[weight] = "NF4", state.shape
                    result[weight + "_scale"] = "F32", (rows, columns // quantised.NF4_BLOCK)
    for name, (_, shape) in found.items():
        if name.endswith(_SCALES):
            weight = name.removesuffix(_SCALES) + _WEIGHT
            rows = found.get(weight, ("missing", ()))[1][:1]
            if found.get(weight, ("missing",))[0] != "I8" or shape != rows:
                raise WeightsError(f"{places[name].name} is damaged: {name} does not fit {weight}.", use)
            result[weight + "_scale"] = "F32", (*rows, 1)
    return result


def _check(file: Path, found: Header, weight: str, state: _State, use: str) -> None:
    rows, columns = state.shape
    count = rows * columns // quantised.NF4_BLOCK
    expected: dict[str, int] = {"": rows * columns // 2, ".absmax": count}
    if state.nested_blocksize:
        expected |= {".nested_absmax": -(-count // state.nested_blocksize), ".nested_quant_map": 256}
    if state.blocksize != quantised.NF4_BLOCK or columns % quantised.NF4_BLOCK or rows * columns <= 0:
        raise WeightsError(
            f"{file.name} has {weight} in blocks of {state.blocksize} of {columns} columns, which isn't read.", use
        )
    for ending, size in expected.items():
        shape = found.get(weight + ending, ("", (0,)))[1]
        if torch.Size(shape).numel() != size:
            raise WeightsError(
                f"{file.name} is damaged: {weight}{ending} is missing, or has {torch.Size(shape).numel()} numbers "
                f"instead of {size}.", use,
            )  # fmt: skip


def read(
    places: Mapping[str, Path], header: Header, file: Path, names: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in `names` that `file` has; `header` is what the function `header` returned for `places`.

    Weights in nf4 are (rows, columns / 2) uint8. Scales are in the file of their `absmax` or `SCB`; what else they need
    is read from wherever it is.
    """
    with weights.opened(file) as tensors:
        present = set(tensors.keys())

        def get(name: str) -> Tensor:
            if name in present:
                return tensors.get_tensor(name)
            with weights.opened(places[name]) as others:
                return others.get_tensor(name)

        for name in names:
            weight = name.removesuffix("_scale")
            if name in present:
                storage, shape = header[name]
                tensor = get(name)
                yield name, tensor.reshape(shape[0], shape[1] // 2) if storage == "NF4" else tensor
            elif weight == name:
                continue
            elif f"{weight}.absmax" in present:
                yield name, _absmax(get, weight).reshape(header[name][1])
            elif (scales := weight.removesuffix(_WEIGHT) + _SCALES) in present:
                yield name, get(scales).float()[:, None] / _INT8


def _state(tensor: Tensor) -> _State:
    return json_file.decode(tensor.numpy().tobytes(), _State)


def _absmax(get: Callable[[str], Tensor], weight: str) -> Tensor:
    """Return the scales of all blocks, one-dimensional float32."""
    state, absmax = _state(get(weight + _STATE)), get(f"{weight}.absmax")
    if not state.nested_blocksize:
        return absmax.float()
    numbers = get(f"{weight}.nested_quant_map").float()[absmax.int()]
    outer = get(f"{weight}.nested_absmax").float().repeat_interleave(state.nested_blocksize)
    return numbers * outer[: len(numbers)] + state.nested_offset
