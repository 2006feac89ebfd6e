"""Open files of weights: the only place that does, and safetensors files only. Pickles can run code.

What else a file may hold (text, a pickle, a damaged header, more tensors than any model has) is told as an error of
the caller's class. diffusers' and transformers' own loaders are called with `use_safetensors=True`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...shared import json_file
from ...shared.file_errors import is_file
from ...shared.protocol.errors import PanoformError, WeightsError

AGAIN = "Copy it again, or continue its download."
_DAMAGED = "is damaged or incomplete"
#: FLUX in nf4 has 5000.
MAX_TENSORS = 100_000
#: Of a safetensors file, in bytes.
_MAX_HEADER = 100_000_000
#: Beginnings of what torch.save writes, now and before 1.6, and extensions of pickles.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@contextmanager
def opened(
    file: Path, failure: type[PanoformError] = WeightsError, hint: str = AGAIN, what: str = _DAMAGED
) -> Iterator[Any]:
    """Open a safetensors file: `keys`, `get_tensor`, `get_slice`, `metadata`. Its tensors are mapped, not read.

    Raise `failure`, with `hint`, where it is a pickle, missing, incomplete, or `what`; also in the block.
    """
    refuse_pickle(file, failure)
    try:
        with safe_open(file, framework="pt") as tensors:
            if (count := len(tensors.keys())) > MAX_TENSORS:
                raise failure(f"{file} has {count:,} tensors, more than {MAX_TENSORS:,}.", hint)
            yield tensors
    # safetensors reports what it finds as its own error; names and texts that are no UTF-8, and sizes, as Python's.
    except (SafetensorError, OSError, UnicodeError, ValueError, OverflowError, MemoryError) as error:
        if (whole := _whole_size(file)) > (size := file.stat().st_size if is_file(file) else 0):
            told = "is incomplete" if what == _DAMAGED else what
            raise failure(f"{file} {told}: it has {size:,} of {whole:,} bytes.", hint) from error
        raise failure(f"{file} {what}: {error}.", hint) from error


def load(file: Path, failure: type[PanoformError] = WeightsError, hint: str = AGAIN) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file. Raise `failure` as `opened`."""
    with opened(file, failure, hint) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no dict


def refuse_pickle(file: Path, failure: type[PanoformError] = WeightsError) -> None:
    """Raise `failure` where a file is a pickle, by its content or its name."""
    if not is_file(file):
        return
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
    except OSError:
        return  # the caller's reader reports it
    # A safetensors file begins with the length of its header.
    other = int.from_bytes(start, "little") > _MAX_HEADER
    if file.suffix.lower() in _PICKLE_SUFFIXES or (start.startswith(_PICKLES) and other):
        raise failure(
            f"{file} can't be read: it is a pickle, which can run code.", "Use its .safetensors file instead."
        )


def _whole_size(file: Path) -> int:
    """Return the size that a safetensors file should have by its header, in bytes; 0 where its header is damaged."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json_file.decode(stream.read(min(length, _MAX_HEADER)), dict[str, dict[str, msgspec.Raw]])
        ends = [
            json_file.decode(bytes(tensor["data_offsets"]), list[int])[1]
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
        return 8 + length + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError):
        return 0
