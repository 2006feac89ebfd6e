"""Bounds of models' configurations, checked before anything is built from them: diffusers checks none.

They lie far beyond any model that fits into a GPU, and keep what is built, without weights, below a second or two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...shared import json_file
from ...shared.protocol.errors import WeightsError

#: FLUX has 57 layers, T5 24.
MAX_LAYERS = 256
#: Of any number; a vocabulary has 250 000.
MAX_NUMBER = 10_000_000
#: Of the sides of layers, heads and feed-forward networks.
MAX_WIDTH = 131_072
MAX_LIST, MAX_VALUES, MAX_TEXT, MAX_DEPTH = 64, 2000, 20_000, 8
#: Of the additional tokens of a tokenizer; T5's has 100.
MAX_TOKENS = 1000
#: The file of a tokenizer, of which no layers are made.
_TOKENIZER = "tokenizer_config.json"
#: Endings of the names of sides.
_WIDTHS = ("_dim", "_size", "_channels", "d_model", "d_ff", "d_kv", "_heads", "in_channels")
#: Names of sizes that are no sides of layers.
_OTHER_SIZES = ("vocab_size",)


def check(config: dict[str, Any], place: Path | str, hint: str, kind: str = "model", max_list: int = MAX_LIST) -> None:
    """Raise WeightsError, with `hint`, for a configuration that only a fool or a foe writes.

    `max_list`: the most entries that a list of it may have.
    """
    problem = _problem(config, max_list)
    if problem:
        raise WeightsError(f"No {kind} can be made from {place}: {problem}.", hint)


def check_folder(folder: Path, hint: str) -> None:
    """Check all configurations in a diffusers folder and its sub-folders, for libraries that read them themselves.

    Raise WeightsError as `check`, and where one can't be read.
    """
    for file in sorted((*folder.glob("*.json"), *folder.glob("*/*config.json"))):
        if not file.name.endswith(("config.json", "model_index.json")):
            continue
        try:
            config = json_file.read(file, dict[str, Any])
            if file.name == _TOKENIZER:
                config.pop("model_max_length", None)  # no size of anything; transformers writes 1e30 for "unlimited"
                check(config, file, hint, "tokenizer", MAX_TOKENS)
            else:
                check(config, file, hint)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{file} can't be read: {error}.", hint) from error


def _problem(config: dict[str, Any], max_list: int) -> str:
    layers = 0.0
    for count, (name, value, depth) in enumerate(_values("", config, 0)):
        if count > MAX_VALUES:
            return f"it has more than {MAX_VALUES} values"
        if depth > MAX_DEPTH:
            return "it is nested too deeply"
        if isinstance(value, (list, tuple)) and len(value) > max_list:
            return f"{name} has {len(value)} entries"
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return f"{name} is a text of {len(value)} characters"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value) or abs(value) > MAX_NUMBER:
                return f"{name} is {value:.3g}"
            if name == "extra_ids" and value > MAX_TOKENS:
                return f"it adds {value} tokens"
            if name.endswith(_WIDTHS) and name not in _OTHER_SIZES and not -1 <= value <= MAX_WIDTH:
                return f"{name} is {value}"
            if "layers" in name:
                layers += value * _times(name, config)
                if value < 0 or layers > MAX_LAYERS:
                    return f"it has {layers:.0f} layers ({name})"
    widths = config.get("block_out_channels", [0])
    return "block_out_channels is empty" if isinstance(widths, (list, tuple)) and not widths else ""


def _times(name: str, config: dict[str, Any]) -> int:
    """Return how many times a number of layers counts."""
    blocks = config.get("block_out_channels")
    return len(blocks) if "per_block" in name and isinstance(blocks, (list, tuple)) else 1


def _values(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Yield name, value and depth of all values, those in lists under the list's name."""
    yield name, value, depth
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _values(str(key)[:64], inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value[: MAX_TOKENS + 1]:
            yield from _values(name, inner, depth + 1)
