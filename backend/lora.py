"""Whether a FLUX LoRA is wholly for the model at hand; what is not would be left out without a word otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

_KEY = re.compile(r"(?P<module>(?:transformer|text_encoder)\..+)\.lora_(?P<factor>[AB])\.weight")


def misfit(state: Mapping[str, Tensor], models: Mapping[str, nn.Module | None]) -> str:
    """Why the tensors of a LoRA, as diffusers names them, are not wholly for `models`; "" if they are.

    Args:
        state: "transformer.….lora_A.weight" (rank, in) and "….lora_B.weight" (out, rank).
        models: "transformer" and "text_encoder", None where it isn't loaded.
    """
    linears = {
        f"{part}.{name}": module
        for part, model in models.items()
        if model is not None
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    }
    unexpected, wrong = [], []
    ranks: dict[str, dict[str, int]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        linear = linears.get(match["module"]) if match else None
        if match is None or linear is None:
            unexpected.append(key)
            continue
        size = tuple(value.shape) if match["factor"] == "A" else tuple(value.shape)[::-1]  # (rank, features)
        features = linear.in_features if match["factor"] == "A" else linear.out_features
        if len(size) != 2 or size[1] != features:
            wrong.append(f"{key} is {' × '.join(map(str, value.shape))}, for {features} features")
        else:
            ranks.setdefault(match["module"], {})[match["factor"]] = size[0]
    halves = [name for name, rank in ranks.items() if len(set(rank.values())) != 1 or len(rank) != 2]
    found = (
        (unexpected, "unexpected keys"),
        (wrong, "of the wrong shape"),
        ([] if wrong else halves, "modules without two factors of one rank"),
    )
    told = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])})" for names, what in found if names]
    return "; ".join(told) or ("" if ranks else "it is empty")
