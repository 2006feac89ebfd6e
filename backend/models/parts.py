"""Networks of a checkpoint, checked by the headers of their safetensors files before any weight is read.

Every tensor of the architecture must exist, in its shape, and no other: diffusers would initialise missing tensors
randomly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import init_empty_weights

from ...shared import json_file
from ...shared.protocol.errors import WeightsError
from . import bitsandbytes_file, config_bounds, foreign, quantised, torchao_file, weights

#: Tensor name → (storage, shape). The storage is a dtype as in safetensors files, or a quantisation of GGUF; the shape
#: is that of the decoded tensor.
Header = dict[str, tuple[str, tuple[int, ...]]]

_AGAIN = "Download it again."
#: Files of a network.
_MAX_SHARDS = 1000
#: Storages of weights that are numbers themselves.
_FLOATS = ("F64", "F32", "F16", "BF16", *quantised.FLOAT8)
#: Ending of the names of scales, as QuantisedLinear has them.
_SCALE = ".weight_scale"
#: Names of the weight files of a network in a diffusers folder; the first that exists is read.
STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")


def read_tensors(file: Path, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a safetensors file in `names`, mapped, not read."""
    with weights.opened(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name in names:
                yield name, tensors.get_tensor(name)


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint: its config, its files, and the tensors by their headers."""

    #: Class of the network, with `from_config`.
    cls: Any
    config: dict[str, Any]
    files: tuple[Path, ...]
    #: Prefix of the tensor names in the files.
    prefix: str
    #: Prefix removed.
    tensors: Header
    #: Converts their naming to that of the class; None where no conversion is needed.
    convert: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    #: Yields the tensors of a file that are named; those of GGUF's quantisations as bytes.
    read: Callable[[Path, Collection[str]], Iterator[tuple[str, torch.Tensor]]] = read_tensors
    #: Storage that the Linears of its blocks, nearly all weights, are rounded to when they are loaded; "": none.
    rounding: str = ""

    @property
    def place(self) -> Path:
        """Return the file, or the folder of the shards."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    @property
    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for _, shape in self.tensors.values())

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def dtypes(self) -> list[str]:
        return sorted({dtype for dtype, _ in self.tensors.values()})

    @property
    def quantised(self) -> list[str]:
        """The storages of its weights that are not cast to the requested precision, but kept as they are."""
        return sorted({dtype for dtype, shape in self.tensors.values() if _is_kept(dtype, shape)})

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return the memory of its weights in that precision, in bytes; quantised ones stay as they are."""
        if not self.quantised and not self.rounding:
            return self.parameters * dtype.itemsize
        count = 0
        for name, tensor in self.network().state_dict().items():
            if tensor.dtype == torch.uint8 or name.endswith(_SCALE):
                count += tensor.nbytes
            elif self.rounding and quantised.rounds(name, tensor, self.rounding):
                rows, columns = tensor.shape
                scales = quantised.scales_in_row(self.rounding, columns)
                count += rows * (quantised.row_bytes(self.rounding, columns) + 4 * scales)
            else:
                count += tensor.numel() * dtype.itemsize
        return count

    def converted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the tensors in the naming of the class."""
        return self.convert(tensors) if self.convert else tensors

    def network(self, again: str = _AGAIN) -> Any:
        """Build the network without weights; Linears whose weights are quantised in the files are QuantisedLinears.

        Raise WeightsError, with the hint `again`.
        """
        network = built(self.cls, self.config, self.place, again)
        if not self.quantised:
            return network
        # Conversion splits and joins rows: a number for each row says how it is stored.
        names = {name: i for i, name in enumerate(self.dtypes)}
        rows = {
            key: torch.full(shape[:1], names[storage])
            for key, (storage, shape) in self.tensors.items()
            if key.endswith(".weight") and len(shape) > 0
        }
        stored = {key: self.dtypes[int(row[0])] for key, row in self.converted(rows).items() if len(row)}
        state = network.state_dict()
        storages = {
            key.removesuffix(".weight"): storage
            for key, storage in stored.items()
            if key in state and _is_kept(storage, tuple(state[key].shape))
        }
        scales = {
            key.removesuffix(_SCALE): tensor.shape[1]
            for key, tensor in self.converted(self.meta()).items()
            if key.endswith(_SCALE)
        }
        quantised.replace_linears(network, storages, scales)
        return network

    def meta(self) -> dict[str, torch.Tensor]:
        """Return its tensors without content, in the names and shapes of the files' own."""
        return {
            key: torch.empty(
                (shape[0], quantised.row_bytes(storage, shape[1])) if _is_kept(storage, shape) else shape, device="meta"
            )
            for key, (storage, shape) in self.tensors.items()
        }


def _is_kept(storage: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is kept quantised: matrices only."""
    return len(shape) == 2 and quantised.is_quantised(storage)


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (name, bytes, modification time) of the file, or of each weight file in the folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def built(cls: Any, config: dict[str, Any], file: Path, again: str = _AGAIN) -> Any:
    """Build a diffusers object from the `config` in `file`; a network has no weights.

    Raise WeightsError, with the hint `again`.
    """
    config_bounds.check(config, file, again, cls.__name__)
    try:
        with init_empty_weights():
            return cls.from_config(config)
    # diffusers does not check configs: an invalid one can raise anything.
    except Exception as error:
        raise WeightsError(f"No {cls.__name__} can be made from {file}: {error}.", again) from error


def part_of_folder(folder: Path, cls: Any, again: str = _AGAIN) -> Part:
    """Return the network in a sub-folder of a diffusers folder. Raise WeightsError, with the hint `again`."""
    file = folder / "config.json"
    config = read_json(file)
    if config.get("_class_name") != cls.__name__:
        raise WeightsError(f"{folder} is a {config.get('_class_name')}, not a {cls.__name__}.", again)
    foreign.refuse_config(folder, config, again)
    config = dict(built(cls, {k: v for k, v in config.items() if k != foreign.CONFIG}, file, again).config)
    files = _weight_files(folder)
    headers = {file: read_header(file) for file in files}
    tensors = {key: value for header in headers.values() for key, value in header.items()}
    if torchao_file.is_in(tensors):
        tensors = torchao_file.header(files, tensors, again)
        return Part(cls, config, files, "", tensors, read=partial(torchao_file.read, tensors))
    foreign.refuse(folder, tensors, again)
    if not bitsandbytes_file.is_in(tensors):
        return Part(cls, config, files, "", tensors)
    places = {key: file for file, header in headers.items() for key in header}
    tensors = bitsandbytes_file.header(places, tensors, again)
    return Part(cls, config, files, "", tensors, read=partial(bitsandbytes_file.read, places, tensors))


class _Shards(msgspec.Struct):
    weight_map: dict[str, str]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    stem = f"{STEMS[0]}.safetensors"
    if (folder / f"{stem}.index.json").is_file():
        names = sorted(set(read_json(folder / f"{stem}.index.json", _Shards).weight_map.values()))
        if not names or len(names) > _MAX_SHARDS or any(Path(name).name != name for name in names):
            raise WeightsError(f"{folder / stem}.index.json names no files, too many, or others' files.", _AGAIN)
    else:
        names = [next((f"{name}.safetensors" for name in STEMS if (folder / f"{name}.safetensors").is_file()), stem)]
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder / name} is missing.", "Download the rest of the checkpoint (safetensors only)."
            )
    return tuple(folder / name for name in names)


def within(header: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in header.items() if key.startswith(prefix)}


def read_header(file: Path) -> Header:
    """Read a header: tensor name → (safetensors dtype, shape). Raise WeightsError for a damaged or incomplete file."""
    with weights.opened(file) as tensors:
        slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
        return {key: (found.get_dtype(), tuple(found.get_shape())) for key, found in slices.items()}


def check_tensors(part: Part, again: str = _AGAIN) -> None:
    """Raise WeightsError, naming keys, unless the part has exactly the tensors of its class, in their shapes.

    Integers without scales are refused too.
    """
    network = part.network(again)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in part.converted(part.meta()).items()}
    unscaled = [
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, quantised.QuantisedLinear) and module.storage == "I8" and module.weight_scale is None
    ]
    unscaled += [
        key for key, (storage, shape) in part.tensors.items() if storage not in _FLOATS and not _is_kept(storage, shape)
    ]
    if unscaled:
        raise WeightsError(
            f"{part.place} has {len(unscaled)} tensors of integers without scales ({unscaled[0]}): no weights.",
            again,
        )
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    problems = [
        f"{len(keys)} tensors {what} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise WeightsError(f"{part.place} does not fit {part.cls.__name__}: {'; '.join(problems)}.", again)


def read_json(file: Path, kind: Any = dict[str, Any], expected: str = "") -> Any:
    """Read a JSON file as a `kind`. Raise WeightsError; `expected` is the hint where the file is missing."""
    try:
        return json_file.read(file, kind)
    except FileNotFoundError:
        raise WeightsError(f"{file} is missing.", expected or _AGAIN) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} can't be read: {error}.", _AGAIN) from error


def load(part: Part, dtype: torch.dtype) -> Any:
    """Load the network on the CPU, checked before (`check_tensors`). Its quantised weights are not cast to `dtype`."""
    names = {part.prefix + name: name for name in part.tensors}
    state = {
        names[key]: tensor.view(torch.uint8) if _is_kept(*part.tensors[names[key]]) else tensor
        for file in part.files
        for key, tensor in part.read(file, names.keys())
    }
    state = {
        key: tensor if tensor.dtype == torch.uint8 or key.endswith(_SCALE) else tensor.to(dtype)
        for key, tensor in part.converted(state).items()
    }
    model = part.network()
    model.load_state_dict(state, strict=True, assign=True)
    model.eval().requires_grad_(False)
    if part.rounding:
        quantised.round_linears(model, part.rounding)
    return model
