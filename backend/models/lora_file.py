"""State dicts of LoRAs for FLUX, as PEFT, diffusers, BFL, ComfyUI and kohya name them → diffusers' names, exactly.

The change of a weight is alpha / r · B · A. alpha is a tensor beside the factors, or lora_alpha in PEFT's configuration
(in the file's header, or adapter_config.json beside it); without either it is r. It is multiplied into B here.
A fused projection (q, k and v; the single blocks' also with the MLP) is split by B's rows, each with the whole A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...shared import json_file
from ...shared.protocol.errors import AdapterError
from .flux import bfl_names

CONFIG = "adapter_config.json"
_PREFIX = re.compile(r"(?:base_model\.model\.|model\.|transformer\.|diffusion_model\.|lora_transformer_|lora_unet_)*")
_KEY = re.compile(
    r"(?P<module>.+?)(?:\.(?P<factor>lora_A|lora_B|lora_down|lora_up)(?:\.(?P<adapter>\w+))??\.weight|\.(?P<alpha>alpha))"
)
_FACTOR = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
_DORA = "a DoRA, whose scale needs the norms of the model's own weights, which may be quantised or offloaded"
#: Parts of keys of adapters that are no LoRA → what these are.
_OTHERS = {
    "dora_scale": _DORA,
    "lora_magnitude_vector": _DORA,
    "lokr_": "a LoKr (Kronecker products), not a LoRA",
    "hada_": "a LoHa (Hadamard products), not a LoRA",
    "oft_": "an OFT, not a LoRA",
    "boft_": "a BOFT, not a LoRA",
    "lora_mid": "a LoCon with a third factor (lora_mid), not a LoRA",
    "lora_embedding": "a LoRA of embeddings, which the transformer has not",
}
#: Settings of PEFT that change the result otherwise than alpha and r.
_UNSUPPORTED = ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "layer_replication", "use_qalora")
#: Starts of the names of PEFT's initialisations that also change the model's own weights, which the file doesn't hold.
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

#: Modules whose rows diffusers has in two halves the other way round: shift and scale.
_SWAPPED = "norm_out.linear"


@dataclass
class Pair:
    """The tensors for a module, or for several that BFL's code fuses, with their keys in the file."""

    modules: tuple[str, ...]
    #: The module's name in the file, without prefixes.
    alias: str
    #: "A", "B", "alpha" → key.
    keys: dict[str, str] = field(default_factory=dict)


def kind(keys: Iterator[str] | Sequence[str]) -> tuple[str, str]:
    """Return a key of an adapter that is no LoRA, and what that is; two empty texts for none."""
    for key in keys:
        for part, what in _OTHERS.items():
            if part in key:
                return key, what
    return "", ""


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None, transformer: nn.Module, name: str
) -> dict[str, Tensor]:
    """Return the LoRA under diffusers' names, "transformer.….lora_A.weight", with the scale multiplied into B.

    Keys that name no linear layer of `transformer` are returned as they are. `config` is PEFT's, None without one.
    Raise AdapterError, naming keys of the file, for other kinds of adapters, values that are not finite, factors that
    do not fit each other, and settings that are not supported.
    """
    key, what = kind(list(state))
    if key:
        raise AdapterError(f"{name} is {what} ({key}); only LoRAs are read.", "Use a LoRA, or merge it into the model.")
    check_finite(state, name)
    check_config(config or {}, name)
    sizes: dict[str, tuple[Any, Any]] = {
        module: (linear.out_features, linear.in_features)
        for module, linear in transformer.named_modules()
        if hasattr(linear, "in_features")
    }
    pairs, others = _pairs(state, _aliases(sizes), name)
    converted: dict[str, Tensor] = {}
    for pair in pairs:
        if pair.keys.keys() >= {"A", "B"}:
            converted |= _layers(state, pair, sizes, config, name)
        else:
            others += pair.keys.values()
    return converted | {key: state[key] for key in others}


def check_finite(state: Mapping[str, Tensor], name: str) -> None:
    """Raise AdapterError, naming the first key, where values are NaN or infinite."""
    bad = [
        key
        for key, tensor in state.items()
        # torch.isfinite has no kernel for 8-bit floats.
        if tensor.is_floating_point() and not torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()
    ]
    if bad:
        raise AdapterError(
            f"{name} is damaged: {len(bad)} tensors have values that are NaN or infinite ({', '.join(bad[:3])}).",
            "Download it again; if it was trained so, use an earlier checkpoint.",
        )


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Raise AdapterError where PEFT's configuration asks for more than alpha / r · B · A."""
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise AdapterError(f"{name} is an adapter of the kind {kind} ({CONFIG}); only LoRAs are read.", "Use a LoRA.")
    unsupported = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias") not in (None, "none"):
        unsupported.append("bias")
    if str(config.get("init_lora_weights")).lower().startswith(_OTHER_BASE):
        unsupported.append(f"init_lora_weights ({config['init_lora_weights']})")
    if unsupported:
        raise AdapterError(
            f"The settings {', '.join(unsupported)} of {name} ({CONFIG} or header) are not supported.",
            "Use a plain LoRA, or merge it into the model.",
        )


def scaled(B: Tensor, factor: float, key: str, name: str) -> Tensor:
    """Return B · factor, in float32 where B's own format has too few exponents for it (float16, 8 bits).

    Raise AdapterError, naming B's key, where it isn't finite.
    """
    product = B.float() * factor
    check_finite({key: product}, name)
    return product.to(B.dtype) if B.dtype == torch.bfloat16 else product


def scale(config: Mapping[str, Any], names: Sequence[str], rank: int, where: str, name: str) -> float:
    """Return alpha / r by PEFT's configuration, of a module that has these names.

    Raise AdapterError where it says another r than the file.
    """
    r = _pattern(config.get("rank_pattern"), names, config.get("r"))
    alpha = _pattern(config.get("alpha_pattern"), names, config.get("lora_alpha"))
    if r is not None and r != rank:
        raise AdapterError(
            f"{name} has rank {rank} at {where}, but its configuration ({CONFIG} or header) says r = {r}.",
            "Use the configuration that belongs to this file.",
        )
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Any, names: Sequence[str], default: Any) -> Any:
    """Return the value of the first pattern that ends one of the names, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        plain = pattern.removeprefix("^")
        plain = plain[_PREFIX.match(plain).end() :]  # type: ignore[union-attr]
        if any(re.match(rf"(.*\.)?({plain})$", name) for name in names):
            return value
    return default


def read_config(text: str, name: str) -> dict[str, Any]:
    """Return PEFT's configuration from JSON, without diffusers' "transformer." before its keys. Raise AdapterError."""
    try:
        config = json_file.decode(text, dict[str, Any])
        config = {key.removeprefix("transformer."): value for key, value in config.items()}
        for key in ("r", "lora_alpha"):
            value = config.get(key)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"{key} is {value!r}")
        for key in ("rank_pattern", "alpha_pattern"):
            if not isinstance(config.get(key) or {}, dict):
                raise ValueError(f"{key} is no table")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise AdapterError(f"The configuration of {name} is damaged: {error}.", "Download it again.") from error
    return config


def config_beside(file: Path) -> dict[str, Any] | None:
    """Return PEFT's configuration beside an adapter's file; None where there is none. Raise AdapterError."""
    path = file.parent / CONFIG
    if not path.is_file():
        return None
    try:
        return read_config(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} can't be read: {error}.", "Download it again.") from error


def _aliases(sizes: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return every name of modules in files, in BFL's and diffusers' code, with dots and underscores → the modules."""
    names: dict[str, tuple[str, ...]] = {}

    def add(alias: str, modules: Sequence[str]) -> None:
        if all(module in sizes for module in modules):
            names.setdefault(alias, tuple(modules))
            names.setdefault(alias.replace(".", "_"), tuple(modules))

    for module in sizes:
        add(module, (module,))
    for alias, module in bfl_names.OUTER.items():
        add(alias, (module,))
    for ours, theirs, table in (
        ("transformer_blocks", "double_blocks", bfl_names.DOUBLE),
        ("single_transformer_blocks", "single_blocks", bfl_names.SINGLE),
    ):
        for index in {module.split(".")[1] for module in sizes if module.startswith(f"{ours}.")}:
            for alias, modules in table.items():
                add(f"{theirs}.{index}.{alias}", [f"{ours}.{index}.{module}" for module in modules])
    return names


def _pairs(
    state: Mapping[str, Tensor], aliases: Mapping[str, tuple[str, ...]], name: str
) -> tuple[list[Pair], list[str]]:
    """Return the tensors by modules, and the keys that belong to none. Raise AdapterError for a module named twice."""
    pairs: dict[tuple[str, ...], Pair] = {}
    owners: dict[str, tuple[str, ...]] = {}
    others: list[str] = []
    for key in state:
        found = _KEY.fullmatch(key[_PREFIX.match(key).end() :])  # type: ignore[union-attr]
        modules = aliases.get(found["module"]) if found else None
        if found is None or modules is None:
            others.append(key)
            continue
        if any(owners.setdefault(module, modules) != modules for module in modules):
            raise _misfit(name, f"it adapts the modules of {key} a second time under another name")
        part = "alpha" if found["alpha"] else _FACTOR[found["factor"]]
        pair = pairs.setdefault(modules, Pair(modules, found["module"]))
        if (first := pair.keys.setdefault(part, key)) != key:
            raise _misfit(name, f"{first} and {key} are of the same module")
    return list(pairs.values()), others


def _layers(
    state: Mapping[str, Tensor],
    pair: Pair,
    sizes: Mapping[str, tuple[int, int]],
    config: Mapping[str, Any] | None,
    name: str,
) -> dict[str, Tensor]:
    """Return the factors of a pair's modules. Raise AdapterError where their shapes do not fit."""
    A, B = state[pair.keys["A"]], state[pair.keys["B"]]
    rows, columns = sum(sizes[module][0] for module in pair.modules), sizes[pair.modules[0]][1]
    for key, tensor, what in (
        (pair.keys["A"], A, f"{columns} features"),
        (pair.keys["B"], B, f"{rows} features"),
    ):
        if tensor.ndim != 2 or not tensor.numel():
            raise _misfit(name, f"{key} is {' × '.join(map(str, tensor.shape)) or 'one number'}, for {what}")
    if A.shape[1] != columns:
        raise _misfit(name, f"1 of the wrong shape ({pair.keys['A']} is {_shape(A)}, for {columns} features)")
    if B.shape[0] != rows:
        raise _misfit(name, f"1 of the wrong shape ({pair.keys['B']} is {_shape(B)}, for {rows} features)")
    if A.shape[0] != B.shape[1]:
        raise _misfit(name, f"1 modules without two factors of one rank ({pair.keys['A']} and {pair.keys['B']})")
    rank = A.shape[0]
    if "alpha" in pair.keys:
        alpha = state[pair.keys["alpha"]]
        if alpha.numel() != 1:
            raise _misfit(name, f"{pair.keys['alpha']} is not one number")
        factor = float(alpha) / rank
    else:
        factor = scale(config, (pair.modules[0], pair.alias), rank, pair.keys["A"], name) if config else 1.0
    if factor != 1:
        B = scaled(B, factor, pair.keys["B"], name)
        A = A.to(B.dtype)
    layers, row = {}, 0
    for module in pair.modules:
        part = B[row : row + sizes[module][0]]
        row += sizes[module][0]
        if module == _SWAPPED and pair.keys["B"].find("adaLN_modulation") >= 0:
            part = torch.cat(part.chunk(2)[::-1])
        layers |= {f"transformer.{module}.lora_A.weight": A, f"transformer.{module}.lora_B.weight": part.contiguous()}
    return layers


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def _misfit(name: str, problem: str) -> AdapterError:
    return AdapterError(f"{name} is not a LoRA of this model: {problem}.", "Use one made for FLUX.1-dev.")
