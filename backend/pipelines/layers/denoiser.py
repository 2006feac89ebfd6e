"""FLUX's transformer over several batches at once, block by block, for all steps of a schedule.

A block computes all batches before the next one is needed, so that weights that are not on the device arrive once a
step and not once a batch. Every product has the shape that it has for one batch alone, so that its result is the same,
bit by bit. What the result does not depend on is left out: all streams but the target in the last block, and copies of
the text in the double blocks.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformer2DModel
from torch import Tensor

from ...models import kernels, quantised
from ...models.flux import memory
from ...models.residency import Residency
from . import modulation, shared_attention
from .first_block_cache import FirstBlockCache
from .shared_attention import Layers, StreamLinear

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Batch:
    """The inputs of one batch that are the same at every step. Batches may share tensors."""

    #: (rows, tokens, joint_attention_dim); (1, …) for streams, which have one text.
    prompt_embeds: Tensor
    #: (rows, pooled_projection_dim)
    pooled_prompt_embeds: Tensor
    #: Adapters of the rows, which are then streams of one panorama (`shared_attention`), and of which the last is the
    #: target; empty: a plain batch.
    layers: Layers

    @property
    def rows(self) -> int:
        return len(self.pooled_prompt_embeds)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What is computed of a batch before the first step."""

    rows: int
    text: Tensor  # (1 or rows, tokens, dim)
    table: modulation.Table
    layers: Layers

    def result(self, x: Tensor) -> Tensor:
        """Return the rows that velocities are computed of: of streams, the target."""
        return x[-1:] if self.layers else x


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """Predicts velocities; made by `denoiser`, and valid within that context."""

    transformer: FluxTransformer2DModel
    #: By name, in order; the last is a single block.
    blocks: Sequence[tuple[str, Any]]
    batches: Sequence[_Prepared]
    rotary: Any
    #: In the place of modulation, and of adapted layers: block → their names and themselves.
    lookups: Mapping[str, Mapping[str, modulation.Lookup]]
    linears: Mapping[str, Mapping[str, StreamLinear]]
    residency: Residency
    check: Callable[[], None]
    cache: FirstBlockCache | None
    #: Whether quantised weights of a block are decoded before it, for all batches.
    decodes_blocks: bool

    def __call__(self, step: int, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """Return the velocity of each batch at timestep number `step`, from its tokens (rows, tokens, 4C).

        Of streams only that of the target is computed, (1, tokens, 4C); else (rows, tokens, 4C). Where the device has
        less memory than when it began, as another program uses it now, the step is computed again with fewer weights on
        the device. Raise OutOfMemoryError where there are none left.
        """
        while True:
            try:
                return self._step(step, hidden_states)
            except torch.OutOfMemoryError as error:
                # The frames of the traceback refer to the tensors that filled the memory.
                traceback.clear_frames(error.__traceback__)
                if not self.residency.shrink():
                    raise
                _log.warning("The device ran out of memory: half of the weights that stayed on it stream now.")

    def _step(self, step: int, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        texts = [batch.text for batch in self.batches]
        images = [self.transformer.x_embedder(x) for x in hidden_states]  # (rows, tokens, dim) each
        unused = texts[0].new_zeros(1)  # instead of the embedding that modulation was computed from
        computed = list(range(len(images)))
        first: dict[int, tuple[Tensor, Tensor]] = {}  # result tokens of a batch before and after the first block
        for number, (name, block) in enumerate(self.blocks):
            decoded = quantised.decoded_once(block, texts[0].dtype) if self.decodes_blocks else nullcontext()
            with self.residency.present(number), decoded:
                for i in computed:
                    batch, before = self.batches[i], images[i]
                    self.check()
                    self._set(name, batch, step)
                    if number == len(self.blocks) - 1 and batch.layers:
                        images[i] = shared_attention.last_stream(block, images[i], texts[i], unused, self.rotary)
                        continue
                    if isinstance(block, FluxSingleTransformerBlock):  # these adapt the text
                        texts[i] = texts[i].expand(batch.rows, -1, -1)
                    texts[i], images[i] = block(
                        hidden_states=images[i],
                        encoder_hidden_states=texts[i],
                        temb=unused,
                        image_rotary_emb=self.rotary,
                    )
                    if self.cache is not None and number == 0:
                        first[i] = batch.result(before), batch.result(images[i])
            if self.cache is not None and number == 0:
                reused = {i: self.cache.reused(i, *first[i]) for i in computed}
                images = [images[i] if x is None else x for i, x in reused.items()]
                computed = [i for i, x in reused.items() if x is None]
                if not computed:
                    break
        if self.cache is not None:
            for i in computed:
                self.cache.keep(i, *first[i], images[i])
        velocities = []
        for batch, image in zip(self.batches, images, strict=True):
            self._set("norm_out", batch, step)
            velocities.append(self.transformer.proj_out(self.transformer.norm_out(image, unused)))
        return velocities

    def _set(self, name: str, batch: _Prepared, step: int) -> None:
        """Let block `name` have the modulation and adapters of a batch."""
        for norm, lookup in self.lookups[name].items():
            lookup.value = batch.table[norm][step]
        for key, linear in self.linears[name].items():
            linear.A, linear.B = batch.layers[key]


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
    cache: float = 0.0,
) -> Iterator[Denoiser]:
    """Prepare the transformer for `batches`, all with tokens at positions `img_ids` (tokens, 3), within the block.

    Args:
        timesteps: of the scheduler, 1000 to 0; `Denoiser` takes their numbers.
        dtype: of activations and adapters.
        residency: where the weights of the blocks are.
        check: called before each batch of each block; raise in it to stop.
        cache: threshold of `FirstBlockCache`; 0: none, every step is computed.
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
            factors = [x for each in layers for pair in _within(name, each).values() for x in pair]
            tensors.append([*block.parameters(), *block.buffers(), *factors])
        rows, length = [batch.rows for batch in batches], len(txt_ids) + len(img_ids)
        need = memory.activations(rows, length, transformer.inner_dim, dtype)
        decodes_blocks = len(batches) > 1 or kernels.is_compiled(transformer)
        if any(isinstance(module, quantised.QuantisedLinear) for module in transformer.modules()):
            need += memory.decoded_weights(decodes_blocks, transformer.inner_dim, dtype)
        if cache:
            need += memory.cached(rows, length, transformer.inner_dim, dtype)
        stack.enter_context(residency.opened(tensors, need))
        prepared = []
        for batch, text, each in zip(batches, texts, layers, strict=True):
            table = tables[id(batch.pooled_prompt_embeds)]
            if each:  # streams have one prompt
                table = {norm: value[:, -1:] for norm, value in table.items()}
            prepared.append(_Prepared(rows=batch.rows, text=text, table=table, layers=each))
        names = [*(name for name, _ in blocks), "norm_out"]
        yield Denoiser(
            transformer=transformer,
            blocks=blocks,
            batches=prepared,
            rotary=rotary,
            lookups={name: _within(name, lookups) for name in names},
            linears={name: _within(name, linears) for name in names},
            residency=residency,
            check=check,
            cache=FirstBlockCache(cache) if cache else None,
            decodes_blocks=decodes_blocks,
        )


def _embedding(
    transformer: FluxTransformer2DModel, t: Tensor, guidance_scale: float, pooled: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the embedding of a timestep as FluxTransformer2DModel.forward computes it, (rows, dim)."""
    timestep = (t / 1000).expand(len(pooled)).to(dtype) * 1000
    if not transformer.config["guidance_embeds"]:
        return transformer.time_text_embed(timestep, pooled)
    guidance = torch.full([len(pooled)], guidance_scale, device=pooled.device).to(dtype) * 1000
    return transformer.time_text_embed(timestep, guidance, pooled)


def _within(block: str, found: Mapping[str, _T]) -> dict[str, _T]:
    """Return what has the name of a block, or of something in it."""
    return {name: value for name, value in found.items() if name == block or name.startswith(f"{block}.")}
