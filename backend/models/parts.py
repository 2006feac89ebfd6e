"""Networks of a checkpoint, checked by the headers of their safetensors files before any weight is read.

Every tensor of the architecture must exist, in its shape, and no other: diffusers would initialise missing tensors
randomly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs
import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open

from ...shared.protocol.errors import WeightsError

#: Tensor name → (safetensors dtype, shape).
Header = dict[str, tuple[str, tuple[int, ...]]]

_AGAIN = "Download it again."
#: Names of the weight files of a network in a diffusers folder; the first that exists is read.
STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")


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


def models_folder() -> Path:
    """Return the default folder of downloaded models: PANOFORM_MODELS, or `models` in the user's data folder."""
    given = os.environ.get("PANOFORM_MODELS")
    return Path(given).expanduser() if given else platformdirs.user_data_path("panoform", appauthor=False) / "models"


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (name, bytes, modification time) of the file, or of each weight file in the folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def built(cls: Any, config: dict[str, Any], file: Path, again: str = _AGAIN) -> Any:
    """Build a diffusers object from the `config` in `file`; a network has no weights.

    Raise WeightsError, with the hint `again`.
    """
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
    config = dict(built(cls, config, file, again).config)
    files = _weight_files(folder)
    tensors = {key: value for file in files for key, value in read_header(file).items()}
    return Part(cls, config, files, "", tensors)


class _Shards(msgspec.Struct):
    weight_map: dict[str, str]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    stem = f"{STEMS[0]}.safetensors"
    if (folder / f"{stem}.index.json").is_file():
        names = sorted(set(read_json(folder / f"{stem}.index.json", _Shards).weight_map.values()))
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
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            return {key: (found.get_dtype(), tuple(found.get_shape())) for key, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or incomplete: {error}.", _AGAIN) from error


def check_tensors(part: Part, again: str = _AGAIN) -> None:
    """Raise WeightsError, naming keys, unless the part has exactly the tensors of its class, in their shapes."""
    network = built(part.cls, part.config, part.place, again)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: shape for key, (_, shape) in part.tensors.items()}
    if part.convert:
        converted = part.convert({key: torch.empty(shape, device="meta") for key, shape in found.items()})
        found = {key: tuple(tensor.shape) for key, tensor in converted.items()}
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
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        raise WeightsError(f"{file} is missing.", expected or _AGAIN) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} can't be read: {error}.", _AGAIN) from error


def load(part: Part, dtype: torch.dtype) -> Any:
    """Load the network on the CPU, checked before (`check_tensors`)."""
    state: dict[str, torch.Tensor] = {}
    for file in part.files:
        with safe_open(file, framework="pt") as tensors:
            names = {key.removeprefix(part.prefix): key for key in tensors.keys() if key.startswith(part.prefix)}  # noqa: SIM118
            state |= {name: tensors.get_tensor(key).to(dtype) for name, key in names.items() if name in part.tensors}
    if part.convert:
        state = part.convert(state)
    model = built(part.cls, part.config, part.place)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
