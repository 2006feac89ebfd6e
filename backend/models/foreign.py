"""Name quantisations that are not read, from the names of a file's tensors, so that an error can say what to use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...shared.protocol.errors import WeightsError

#: Entry of a network's config in a diffusers folder.
CONFIG = "quantization_config"
#: Ending of a tensor's name → what writes it. The first that is found counts.
_SIGNS = {
    ".wscales": "by Nunchaku (SVDQuant, 4 bit, for CUDA kernels of its own)",
    ".quant_state.bitsandbytes__fp4": "by bitsandbytes (fp4)",
    ".weight._data": "by Quanto",
    "_weight_qdata": "by torchao, which is read in diffusers folders only, and",
    ".weight_scale_2": "as NVFP4",
    ".weight_packed": "by compressed-tensors, packed",
    ".qzeros": "by GPTQ or AWQ (packed int4)",
    ".qweight": "as packed integers",
}


def refuse(place: Path, names: Iterable[str], use: str) -> None:
    """Raise WeightsError, with the hint `use`, where the tensors' names show a quantisation that is not read."""
    names = list(names)
    for ending, what in _SIGNS.items():
        if any(name.endswith(ending) for name in names):
            raise WeightsError(f"{place.name} is quantised {what}, which isn't read.", use)


def refuse_config(place: Path, config: Mapping[str, Any], use: str) -> None:
    """Raise WeightsError where a diffusers config names a quantisation that is not read."""
    if found := config.get(CONFIG):
        method = found.get("quant_method") if isinstance(found, dict) else found
        if method in ("bitsandbytes", "torchao"):
            return
        raise WeightsError(f"{place} is quantised by {method}, which isn't read.", use)
