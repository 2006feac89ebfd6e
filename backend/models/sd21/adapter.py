"""Find and read the file of an MV-Adapter, and refuse one that doesn't fill exactly the required tensors.

The file is flat: the attention branches under the names of the U-Net's modules
(`down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_mv.weight`), and diffusers' T2IAdapter under its
own (`adapter.conv_in.weight`). Source: huanngzh/MV-Adapter, `mvadapter/utils/mesh_utils`, and the files on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....shared.protocol.errors import AdapterError
from .. import folders, hub, weights

#: Name of a tensor → its shape.
Shapes = Mapping[str, tuple[int, ...]]

_FLOATS = {"F64", "F32", "F16", "BF16"}
#: Number of names in a message.
_NAMED = 3


def filename(task: str) -> str:
    """Return the name of a task's file in a folder or repository, as the hub has it."""
    return f"mvadapter_{task}_sd21.safetensors"


def find(source: str | Path, task: str, *, token: str | None = None, local_files_only: bool = False) -> Path:
    """Find the adapter of `task`: `source` is the file itself, a folder, or a hub repository.

    Raise AdapterError where there is none, and where the name of the file is that of another task: files of different
    tasks may have the same tensors.
    """
    path = folders.expanded(source)
    name = str(source)
    if path.is_dir():
        file = path / filename(task)
        if not file.is_file():
            raise AdapterError(f"The folder {path} has no adapter for {task}.", f"Put it there as {file.name}.")
    elif path.is_file():
        file = path
    elif path.suffix == ".safetensors" or not hub.is_id(name):
        raise AdapterError(f"There is no adapter {name}.", "Name a file, a folder, or a hub repository as owner/name.")
    else:
        file = hub.fetch_first(
            name, [filename(task)], token=token, local_files_only=local_files_only, failure=AdapterError
        )
        if file is None:
            raise AdapterError(f"The hub repository {name} has no {filename(task)}.", "Check its name.")
    other = file.name.removeprefix("mvadapter_").removesuffix("_sd21.safetensors")
    if file.name == filename(other) and other != task:
        raise AdapterError(f"{file} is the adapter of {other}, not of {task}.", f"Use {filename(task)}.")
    return file


def read(file: Path, shapes: Shapes) -> dict[str, Tensor]:
    """Read the tensors of an adapter. Raise AdapterError, naming keys, unless the file has exactly those of `shapes`.

    The header is checked before any tensor is read.
    """
    with _opened(file) as tensors:
        problem = _problem(tensors, shapes)
        if problem:
            raise AdapterError(
                f"{file} is not an adapter for this model and task: {problem}.",
                "Use the adapter made for Stable Diffusion 2.1 and for this task, or download it again.",
            )
        return {name: tensors.get_tensor(name) for name in shapes}


def inspect(file: Path, shapes: Shapes) -> tuple[int, str]:
    """Return the number of tensors of `shapes` that a file fills, and what is wrong with it ("" if nothing).

    Raise AdapterError for a damaged file.
    """
    with _opened(file) as tensors:
        names = set(tensors.keys()) & shapes.keys()
        fits = [name for name in names if tuple(tensors.get_slice(name).get_shape()) == shapes[name]]
        return len(fits), _problem(tensors, shapes)


def _opened(file: Path) -> AbstractContextManager[Any]:
    again = "Download it again, or check the path."
    return weights.opened(file, AdapterError, again, "is not a complete safetensors file")


def _problem(tensors: Any, shapes: Shapes) -> str:
    """Return what is wrong with a file by its header, "" if nothing."""
    names = set(tensors.keys())
    found = {name: tensors.get_slice(name) for name in names & shapes.keys()}
    faults = {
        "missing": [name for name in shapes if name not in names],
        "unexpected": sorted(names - shapes.keys()),
        "of another shape": [
            f"{name} {tuple(tensor.get_shape())} instead of {shapes[name]}"
            for name, tensor in found.items()
            if tuple(tensor.get_shape()) != shapes[name]
        ],
        "not floating-point": [name for name, tensor in found.items() if tensor.get_dtype() not in _FLOATS],
    }
    return "; ".join(
        f"{len(names)} of its tensors are {fault} ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
        for fault, names in faults.items()
        if names
    )


def shapes_of(module: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return name → shape of all tensors of a module."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
