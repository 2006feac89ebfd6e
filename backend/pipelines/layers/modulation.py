"""FLUX's modulation, computed once for all timesteps of a schedule instead of in every step.

It depends on the timestep, the guidance and the pooled prompt only, not on the latents. Its weights are 27 % of
FLUX.1-dev's, and are not needed any more while the latents are denoised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

#: Norm of the transformer → its modulation, (steps, rows, features); one row where the rows of the batch are equal.
Table = Mapping[str, Tensor]


class Lookup(nn.Module):
    """Takes the place of a norm's Linear, and returns `value` (rows, features), whatever its input."""

    value: Tensor

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def norms(transformer: FluxTransformer2DModel) -> list[str]:
    """Return the names of the modulated norms, in the order of use; each has a `linear` and a `silu`."""
    count = len(transformer.transformer_blocks)
    double = [f"transformer_blocks.{i}.{norm}" for i in range(count) for norm in ("norm1", "norm1_context")]
    single = [f"single_transformer_blocks.{i}.norm" for i in range(len(transformer.single_transformer_blocks))]
    return [*double, *single, "norm_out"]


def tabulate(
    transformer: FluxTransformer2DModel,
    embeddings: Sequence[Sequence[Tensor]],
    present: Callable[[nn.Module], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> list[Table]:
    """Return the modulation of each batch, from `embeddings` (rows, features) of its steps as the transformer has them.

    Each product has the shape that it has in the transformer, so that the values are bit-identical; adapters of these
    layers are included. A norm's Linear is used within `present` of it, once for all batches and steps.
    """
    tables: list[dict[str, Tensor]] = [{} for _ in embeddings]
    for name in norms(transformer):
        norm: Any = transformer.get_submodule(name)
        with present(norm.linear):
            for table, steps in zip(tables, embeddings, strict=True):
                values = torch.stack([norm.linear(norm.silu(embedding)) for embedding in steps])
                equal = torch.equal(values, values[:, :1].expand_as(values))
                table[name] = values[:, :1].clone() if equal else values
    return list(tables)


@contextmanager
def replaced(transformer: FluxTransformer2DModel) -> Iterator[dict[str, Lookup]]:
    """Replace the Linear of each modulated norm by a Lookup within the block; yield these by the norm's name."""
    modules: dict[str, Any] = {name: transformer.get_submodule(name) for name in norms(transformer)}
    linears = {name: norm.linear for name, norm in modules.items()}
    lookups = {name: Lookup() for name in modules}
    for name, norm in modules.items():
        norm.linear = lookups[name]
    try:
        yield lookups
    finally:
        for name, norm in modules.items():
            norm.linear = linears[name]
