"""Read GGUF files, the format of llama.cpp: tensors in blocks of a few bits a weight, and no code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch

from ...shared.protocol.errors import WeightsError
from . import quantised

_ARCHITECTURE = "general.architecture"
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_header(file: Path, architecture: str, use: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read a header: tensor name → (type, shape), as `parts.Header`.

    Raise WeightsError, with the hint `use`, for a damaged file, another `architecture`, and types that are not read.
    """
    reader = _open(file)
    field = reader.get_field(_ARCHITECTURE)
    found = str(field.contents()) if field else "no architecture"
    if found != architecture:
        raise WeightsError(f"{file.name} is a GGUF file of {found}, not of {architecture}.", use)
    tensors = {
        tensor.name: (tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape)))
        for tensor in reader.tensors
    }
    if others := sorted({storage for storage, _ in tensors.values()} - {*_FLOATS, *quantised.GGUF}):
        raise WeightsError(
            f"{file.name} has tensors in {', '.join(others)}, which isn't read.",
            f"Use one in {', '.join(sorted(quantised.GGUF))}.",
        )
    return tensors


def read(file: Path, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in `names`, mapped, not read; quantised ones as (rows, bytes of a row) uint8."""
    for tensor in _open(file).tensors:
        if tensor.name in names:
            data = torch.from_numpy(np.asarray(tensor.data))
            yield tensor.name, data.view(torch.bfloat16) if tensor.tensor_type.name == "BF16" else data


def _open(file: Path) -> gguf.GGUFReader:
    try:
        # Mode c, copy on write: PyTorch warns of arrays that can't be written to.
        return gguf.GGUFReader(file, "c")
    # The reader trusts the file: a damaged one can raise anything.
    except Exception as error:
        raise WeightsError(
            f"{file} is no GGUF file, or incomplete: {error}.", "Copy it again, or continue its download."
        ) from error
