"""FLUX's transformer over several batches at once, block by block, for all steps of a schedule.

A block computes all batches before the next one is needed, so that weights that are not on the device arrive once a
step and not once a batch. Every product has the shape that it has for one batch alone, so that its result is the same,
bit by bit.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from ...models import quantised
from ...models.flux import memory
from ...models.residency import Residency
from . import modulation, shared_attention
from .shared_attention import Layers, StreamLinear

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """The inputs of one batch that are the same at every step. Batches may share tensors."""

    #: (rows, tokens, joint_attention_dim)
    prompt_embeds: Tensor
    #: (rows, pooled_projection_dim)
    pooled_prompt_embeds: Tensor
    #: Adapters of the rows, which are then streams of one panorama (`shared_attention`); empty: a plain batch.
    layers: Layers


class Denoiser:
    """Predicts velocities; made by `denoiser`, and valid within that context."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        blocks: Sequence[tuple[str, nn.Module]],
        texts: Sequence[Tensor],
        rotary: Any,
        tables: Sequence[modulation.Table],
        lookups: dict[str, modulation.Lookup],
        layers: Sequence[Layers],
        linears: dict[str, StreamLinear],
        residency: Residency,
        check: Callable[[], None],
    ) -> None:
        self._transformer, self._blocks, self._texts, self._rotary = transformer, blocks, texts, rotary
        self._tables, self._residency, self._check = tables, residency, check
        self._lookups, self._layers, self._linears = lookups, layers, linears
        self._lookups_of = {block: _below(block, lookups) for block, _ in blocks}
        self._linears_of = {block: _below(block, linears) for block, _ in blocks}

    def __call__(self, step: int, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """Return the velocity of each batch at timestep number `step`, from its tokens; both (rows, tokens, 4C).

        Where the device has less memory than when it began, as another program uses it now, the step is computed again
        with fewer weights on the device. Raise OutOfMemoryError where there are none left.
        """
        while True:
            try:
                return self._step(step, hidden_states)
            except torch.OutOfMemoryError as error:
                # The frames of the traceback refer to the tensors that filled the memory.
                traceback.clear_frames(error.__traceback__)
                if not self._residency.shrink():
                    raise
                _log.warning("The device ran out of memory: half of the weights that stayed on it stream now.")

    def _step(self, step: int, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        texts = list(self._texts)
        images = [self._transformer.x_embedder(x) for x in hidden_states]  # (rows, tokens, dim) each
        unused = texts[0].new_zeros(1)  # instead of the embedding that modulation was computed from
        for number, (name, block) in enumerate(self._blocks):
            shared = quantised.decoded_once(block) if len(images) > 1 else nullcontext()
            with self._residency.present(number), shared:
                for i in range(len(images)):
                    self._check()
                    for norm in self._lookups_of[name]:
                        self._lookups[norm].value = self._tables[i][norm][step]
                    for linear in self._linears_of[name]:
                        self._linears[linear].A, self._linears[linear].B = self._layers[i][linear]
                    texts[i], images[i] = block(
                        hidden_states=images[i],
                        encoder_hidden_states=texts[i],
                        temb=unused,
                        image_rotary_emb=self._rotary,
                    )
        velocities = []
        for table, image in zip(self._tables, images, strict=True):
            self._lookups["norm_out"].value = table["norm_out"][step]
            velocities.append(self._transformer.proj_out(self._transformer.norm_out(image, unused)))
        return velocities


@contextmanager
def denoiser(
    transformer: FluxTransformer2DModel,
    batches: Sequence[Batch],
    timesteps: Tensor,
    guidance_scale: float,
    img_ids: Tensor,
    *,
    dtype: torch.dtype,
    residency: Residency,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Denoiser]:
    """Prepare the transformer for `batches`, all with tokens at positions `img_ids` (tokens, 3), within the block.

    Args:
        timesteps: of the scheduler, 1000 to 0; `Denoiser` takes their numbers.
        dtype: of activations and adapters.
        residency: where the weights of the blocks are.
        check: called before each batch of each block; raise in it to stop.
    """
    device = residency.device
    with ExitStack() as stack:
        # Prompts and positions, then modulation: the same for batches that share a pooled prompt
        texts = [transformer.context_embedder(batch.prompt_embeds) for batch in batches]
        txt_ids = torch.zeros(texts[0].shape[1], 3, device=device)
        rotary = transformer.pos_embed(torch.cat([txt_ids, img_ids]))
        pooled = {id(batch.pooled_prompt_embeds): batch.pooled_prompt_embeds for batch in batches}
        embeddings = [
            [_embedding(transformer, t, guidance_scale, rows, dtype) for t in timesteps] for rows in pooled.values()
        ]
        tables = dict(zip(pooled, modulation.tabulate(transformer, embeddings, residency.borrowed), strict=True))
        lookups = stack.enter_context(modulation.replaced(transformer))

        # Adapters
        layers = [{name: (A.to(dtype), B.to(dtype)) for name, (A, B) in batch.layers.items()} for batch in batches]
        linears = stack.enter_context(shared_attention.installed(transformer, layers[0])) if layers[0] else {}

        # Weights, with the adapters of all batches
        blocks = [
            (f"{kind}.{i}", block)
            for kind in ("transformer_blocks", "single_transformer_blocks")
            for i, block in enumerate(getattr(transformer, kind))
        ]
        tensors = []
        for name, block in blocks:
            factors = [x for each in layers for key in _below(name, each) for x in each[key]]
            tensors.append([*block.parameters(), *block.buffers(), *factors])
        rows, length = [len(batch.prompt_embeds) for batch in batches], len(txt_ids) + len(img_ids)
        need = memory.activations(rows, length, transformer.inner_dim, dtype)
        if any(isinstance(module, quantised.QuantisedLinear) for module in transformer.modules()):
            need += memory.decoded_weights(len(batches), transformer.inner_dim, dtype)
        stack.enter_context(residency.opened(tensors, need))
        yield Denoiser(
            transformer, blocks, texts, rotary, [tables[id(batch.pooled_prompt_embeds)] for batch in batches],
            lookups, layers, linears, residency, check,
        )  # fmt: skip


def _embedding(
    transformer: FluxTransformer2DModel, t: Tensor, guidance_scale: float, pooled: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the embedding of a timestep as FluxTransformer2DModel.forward computes it, (rows, dim)."""
    timestep = (t / 1000).expand(len(pooled)).to(dtype) * 1000
    if not transformer.config["guidance_embeds"]:
        return transformer.time_text_embed(timestep, pooled)
    guidance = torch.full([len(pooled)], guidance_scale, device=pooled.device).to(dtype) * 1000
    return transformer.time_text_embed(timestep, guidance, pooled)


def _below(block: str, names: Any) -> list[str]:
    return [name for name in names if name.startswith(f"{block}.")]
