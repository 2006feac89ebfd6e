"""Read the adapters of streams, and refuse those that do not fill exactly the required modules.

Two layouts, `{task}/{stream}/pytorch_lora_weights.safetensors` (the hub's) and `{task}_{stream}.safetensors`, in a
folder or a hub repository; two namings, PEFT's (`transformer.transformer_blocks.0.attn.to_q.lora_A.weight`) and that of
BFL and ComfyUI (`double_blocks.0.img_attn.qkv.lora_down.weight`), whose fused projections are split exactly or not at
all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....shared.protocol.errors import AdapterError
from .. import folders, hub, lora_file, weights

#: Module of the transformer → (out_features, in_features).
Shapes = Mapping[str, tuple[int, int]]

_KEY = re.compile(
    r"(?:base_model\.model\.|transformer\.|diffusion_model\.|lora_transformer_|lora_unet_)*"
    r"(?P<module>.+?)\.(?:(?P<factor>lora_A|lora_B|lora_down|lora_up)(?:\.\w+)??\.weight|(?P<alpha>alpha))"
)
_FACTOR = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Adapter:
    """One stream's adapter: module → A (rank, in) and B (out, rank), with the scale alpha / rank multiplied into B."""

    file: Path
    rank: int
    layers: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Report:
    """The content of a file by its header alone. `problem` is empty where it fills exactly the required modules."""

    file: Path
    filled: int
    modules: int
    rank: int
    dtype: str
    bytes: int
    problem: str = ""


def targets(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the modules that an adapter must fill in a FluxTransformer2DModel of this config: 228 in FLUX.1-dev."""
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    shapes: dict[str, tuple[int, int]] = {}
    for i in range(config["num_layers"]):
        block = f"transformer_blocks.{i}"
        shapes |= {f"{block}.attn.{name}": (dim, dim) for name in ("to_q", "to_k", "to_v", "to_out.0")}
        shapes |= {f"{block}.ff.net.0.proj": (4 * dim, dim), f"{block}.ff.net.2": (dim, 4 * dim)}
    for i in range(config["num_single_layers"]):
        shapes |= {f"single_transformer_blocks.{i}.attn.{name}": (dim, dim) for name in ("to_q", "to_k", "to_v")}
    return shapes


def filenames(task: str, stream: str) -> tuple[str, str]:
    """Return the file names of a stream's adapter in a folder or repository: the hub's layout, and the flat one."""
    return f"{task}/{stream}/pytorch_lora_weights.safetensors", f"{task}_{stream}.safetensors"


def find(
    source: str | Path, task: str, stream: str, *, token: str | None = None, local_files_only: bool = False
) -> Path:
    """Find the file of a stream's adapter in a folder, or in a hub repository (downloaded into the hub's cache).

    Raise AdapterError where there is none; its hint names what to download, or where to log in.
    """
    names = filenames(task, stream)
    folder = folders.expanded(source)
    if folder.is_dir():
        for file in names:
            if (folder / file).is_file():
                return folder / file
        raise AdapterError(
            f"The folder {folder} has no adapter for the stream {stream!r} of {task}.",
            f"Put it there as {names[0]} or {names[1]}.",
        )
    name = str(source)
    if not hub.is_id(name):
        raise AdapterError(f"There is no adapter folder {name}.", "Name a folder, or a hub repository as owner/name.")
    file = hub.fetch_first(name, names, token=token, local_files_only=local_files_only, failure=AdapterError)
    if file is not None:
        return file
    raise AdapterError(
        f"The hub repository {name} has no adapter for the stream {stream!r} of {task}.",
        f"It should hold {names[0]} or {names[1]}.",
    )


def read(file: Path, shapes: Shapes) -> Adapter:
    """Load one adapter. Raise AdapterError, naming keys and file, unless it fills exactly the modules of `shapes`."""
    with _opened(file) as tensors:
        survey = _survey(file, tensors, shapes)
        if survey.problem:
            raise _refusal(file, survey.problem)
        used = {key: tensors.get_tensor(key) for keys in survey.groups.values() for key in keys.values()}
        lora_file.check_finite(used, str(file))
        layers: dict[str, tuple[Tensor, Tensor]] = {}
        for modules, keys in survey.groups.items():
            A, B = used[keys["A"]], used[keys["B"]]
            if len(modules) > 1:
                factors = _split(file, keys["B"], A, B, [shapes[name][0] for name in modules])
            else:
                factors = [(A, B)]
            rank = A.shape[0] // len(modules)
            scale = survey.alpha / rank if survey.alpha else 1.0
            if "alpha" in keys:
                scale = float(used[keys["alpha"]]) / A.shape[0]
            for name, (a, b) in zip(modules, factors, strict=True):
                layers[name] = a, b if scale == 1 else lora_file.scaled(b, scale, keys["B"], str(file))
    return Adapter(file, survey.rank, layers)


def inspect(file: Path, shapes: Shapes) -> Report:
    """Report the content of `file` without loading it. Raise AdapterError only where it can't be read at all."""
    with _opened(file) as tensors:
        survey = _survey(file, tensors, shapes)
    return Report(file, survey.filled, len(shapes), survey.rank, survey.dtype, file.stat().st_size, survey.problem)


def check(file: Path, shapes: Shapes) -> None:
    """Raise AdapterError, naming keys and file, unless a file fills exactly the modules of `shapes`, by its header."""
    if problem := inspect(file, shapes).problem:
        raise _refusal(file, problem)


def stack(adapters: Sequence[Adapter], dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Stack the adapters of a task's streams in order: module → A (streams, rank, in) and B (streams, out, rank).

    Raise AdapterError where their ranks differ.
    """
    if len({adapter.rank for adapter in adapters}) > 1:
        ranks = ", ".join(f"{adapter.rank} in {adapter.file}" for adapter in adapters)
        raise AdapterError(f"The streams of a task need adapters of the same rank, but the ranks are {ranks}.")
    return {
        name: (
            torch.stack([adapter.layers[name][0].to(dtype) for adapter in adapters]),
            torch.stack([adapter.layers[name][1].to(dtype) for adapter in adapters]),
        )
        for name in adapters[0].layers
    }


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    again = "Download it again, or check the path."
    with weights.opened(file, AdapterError, again, "is not a whole safetensors file") as tensors:
        yield tensors


def _refusal(file: Path, problem: str) -> AdapterError:
    return AdapterError(
        f"{file} is not an adapter of this model: {problem}.",
        "Use the adapter of this task that was made for this base model (OmniX's for FLUX.1-dev).",
    )


@dataclass
class _Survey:
    """The findings from the header of a file."""

    #: The modules that share one pair of tensors (three in a fused projection) → {"A" | "B" | "alpha": key}.
    groups: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    filled: int = 0
    rank: int = 0
    dtype: str = ""
    #: lora_alpha of PEFT's configuration; None without one.
    alpha: float | None = None
    problem: str = ""


def _survey(file: Path, tensors: Any, shapes: Shapes) -> _Survey:
    survey, problems = _Survey(), []
    key, what = lora_file.kind(tensors.keys())
    if key:
        survey.problem = f"it is {what} ({key})"
        return survey
    aliases, rows = _aliases(shapes)
    survey.groups, unexpected = _match(tensors.keys(), aliases)
    absent = shapes.keys() - {name for modules in survey.groups for name in modules}
    missing = [f"{name}.lora_{part}" for name in shapes if name in absent for part in "AB"]
    wrong: list[str] = []
    ranks: dict[int, str] = {}
    for modules, keys in survey.groups.items():
        lacking = [f"{name}.lora_{part}" for name in modules for part in "AB" if part not in keys]
        faults = [] if lacking else _faults(tensors, keys, len(modules), rows[modules], shapes[modules[0]][1])
        missing += lacking
        wrong += faults
        if not lacking and not faults:
            survey.filled += len(modules)
            survey.dtype = survey.dtype or tensors.get_slice(keys["A"]).get_dtype()
            ranks.setdefault(tensors.get_slice(keys["A"]).get_shape()[0] // len(modules), keys["A"])

    if survey.filled < len(shapes) or unexpected:
        problems.append(f"it fills {survey.filled} of {len(shapes)} modules")
    for what, items in (("missing", missing), ("unexpected", unexpected), ("wrong", wrong)):
        if items:
            problems.append(f"{len(items)} {what}: {', '.join(items[:3])}{', …' if len(items) > 3 else ''}")
    survey.rank = next(iter(ranks), 0)
    claimed, survey.alpha, unsupported = _claims(file, tensors.metadata() or {})
    if len(ranks) > 1:
        problems.append("its ranks differ: " + ", ".join(f"{rank} at {key}" for rank, key in list(ranks.items())[:3]))
    elif ranks and claimed not in (None, survey.rank):
        problems.append(f"it claims rank {claimed} but {ranks[survey.rank]} has rank {survey.rank}")
    if unsupported:
        problems.append(f"its settings are not supported: {unsupported}")
    survey.problem = "; ".join(problems)
    return survey


def _match(
    keys: Sequence[str], aliases: Mapping[str, tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], dict[str, str]], list[str]]:
    """Return groups of modules → {"A" | "B" | "alpha": key}, and the keys that match no module or are duplicates."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    owners: dict[str, tuple[str, ...]] = {}
    unexpected = []
    for key in sorted(keys):
        match = _KEY.fullmatch(key)
        modules = aliases.get(match["module"]) if match else None
        if match is None or modules is None or any(owners.setdefault(name, modules) != modules for name in modules):
            unexpected.append(key)
            continue
        part = "alpha" if match["alpha"] else _FACTOR[match["factor"]]
        if groups.setdefault(modules, {}).setdefault(part, key) != key:
            unexpected.append(key)
    return groups, unexpected


def _faults(tensors: Any, keys: Mapping[str, str], fused: int, rows: int, columns: int) -> list[str]:
    """List the faults in the dtypes and shapes of one pair of factors, and of its alpha."""
    slices = {part: tensors.get_slice(key) for part, key in keys.items()}
    shapes = {part: tuple(x.get_shape()) for part, x in slices.items()}
    rank = shapes["A"][0] if shapes["A"] else 0
    faults = [
        f"{keys[part]} is {' × '.join(map(str, shapes[part])) or 'one number'}, not {wanted}"
        for part, shape, wanted in (
            ("A", (rank, columns), f"rank × {columns}"),
            ("B", (rows, rank), f"{rows} × {rank}"),
        )
        if shapes[part] != shape or not rank
    ]
    if rank % fused:
        faults.append(f"{keys['A']} has rank {rank}, which can't be divided among q, k and v")
    faults += [
        f"{key} is {slices[part].get_dtype()}" for part, key in keys.items() if slices[part].get_dtype() not in _FLOATS
    ]
    if shapes.get("alpha", ()) not in ((), (1,)):
        faults.append(f"{keys['alpha']} is not one number")
    return faults


def _aliases(shapes: Shapes) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str, ...], int]]:
    """Return every name of modules in files → those modules, and the rows of B in each such group."""
    names: dict[str, tuple[str, ...]] = {}
    rows: dict[tuple[str, ...], int] = {}

    def add(alias: str, modules: tuple[str, ...], extra_rows: int = 0) -> None:
        names[alias] = names[alias.replace(".", "_")] = modules  # kohya's files have underscores for dots
        rows[modules] = sum(shapes[name][0] for name in modules) + extra_rows

    for name in shapes:
        add(name, (name,))
        block = name.removesuffix(".attn.to_q")
        if block == name:
            continue
        qkv = tuple(f"{block}.attn.{part}" for part in ("to_q", "to_k", "to_v"))
        kind, index = block.split(".")
        if kind == "single_transformer_blocks":
            add(f"single_blocks.{index}.linear1", qkv, extra_rows=4 * shapes[name][0])  # q, k, v, then the MLP
        else:
            add(f"double_blocks.{index}.img_attn.qkv", qkv)
            add(f"double_blocks.{index}.img_attn.proj", (f"{block}.attn.to_out.0",))
            add(f"double_blocks.{index}.img_mlp.0", (f"{block}.ff.net.0.proj",))
            add(f"double_blocks.{index}.img_mlp.2", (f"{block}.ff.net.2",))
    return names, rows


def _claims(file: Path, metadata: Mapping[str, str]) -> tuple[int | None, float | None, str]:
    """Return rank, alpha and unsupported settings of PEFT's config, where the file's header or the folder holds it."""
    try:
        written = metadata.get("lora_adapter_metadata")
        config = lora_file.read_config(written, str(file)) if written else lora_file.config_beside(file) or {}
        lora_file.check_config(config, str(file))
    except AdapterError as error:
        return None, None, error.message
    rank, alpha = config.get("r"), config.get("lora_alpha")
    return rank, alpha, ", ".join(name for name in ("rank_pattern", "alpha_pattern", "use_rslora") if config.get(name))


def _split(file: Path, key: str, A: Tensor, B: Tensor, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Undo the exact fusion of several projections: A is their stack, B block-diagonal, rows after them zero.

    Raise AdapterError where B is anything else, because separate adapters could not compute the same.
    """
    ranks = [A.shape[0] // len(rows)] * len(rows)
    outside = B.clone()
    factors, row, column = [], 0, 0
    for size, rank in zip(rows, ranks, strict=True):
        factors.append((A[column : column + rank], B[row : row + size, column : column + rank]))
        outside[row : row + size, column : column + rank] = 0
        row, column = row + size, column + rank
    if outside[row:].any():
        raise _refusal(file, f"{key} adapts the MLP (rows from {row} are not zero), which no stream adapter does")
    if outside.any():
        raise _refusal(file, f"{key} mixes q, k and v (it is not block-diagonal), so they can't be taken apart")
    return factors
