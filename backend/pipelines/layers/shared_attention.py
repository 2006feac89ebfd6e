"""Streams computed in one batch: one LoRA product per layer, one attention over shared keys and values.

A stream is one batch element of the transformer, with its own adapter (OmniX, arXiv 2510.26800). The reference loops
over the samples, switching adapters, and copies keys and values once per stream; this module needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxSingleTransformerBlock,
    FluxTransformer2DModel,
)
from torch import Tensor, nn

#: Module of the transformer → A (streams, rank, in) and B (streams, out, rank), the scale already in B.
Layers = Mapping[str, tuple[Tensor, Tensor]]


class StreamLinear(nn.Module):
    """`base` (any Linear, quantised or not, unchanged) plus a low-rank product for each stream."""

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.base = base
        self.A = A  # (streams, rank, in)
        self.B = B  # (streams, out, rank)

    def forward(self, x: Tensor) -> Tensor:
        """Map (streams, tokens, in) to (streams, tokens, out)."""
        hidden = torch.bmm(x, self.A.mT)  # (streams, tokens, rank)
        return self.base(x).baddbmm_(hidden, self.B.mT)


class SharedAttnProcessor:
    """diffusers' FluxAttnProcessor, except that every stream attends to the tokens of all streams.

    All streams see the same keys and values, so their queries go through one attention call as one long sequence. Where
    the text is one row, it is that of all streams: the double blocks don't adapt it, and it attends to the same tokens,
    so that it stays the same for all. Its keys and values count once for each stream.
    """

    _parallel_config = None

    def __init__(self, attention_backend: Any) -> None:
        self._attention_backend = attention_backend  # as chosen by set_attention_backend

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, attn.head_dim))

        query = attn.norm_q(heads(attn.to_q(hidden_states)))  # (streams, tokens, heads, head_dim)
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        streams = len(hidden_states)
        if encoder_hidden_states is None:
            query, key = (_rotated(x, image_rotary_emb) for x in (query, key))
            attended = self._attend(query.flatten(0, 1), key, value, attention_mask)
            return attended.unflatten(0, (streams, -1))

        # The text of all streams, or of each: (1 or streams, text tokens, heads, head_dim)
        text_query = attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states)))
        text_key = attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states)))
        text_value = heads(attn.add_v_proj(encoder_hidden_states))
        texts, length = encoder_hidden_states.shape[:2]
        text_rotary, rotary = ([x[:length] for x in image_rotary_emb], [x[length:] for x in image_rotary_emb])
        text_query, text_key = (_rotated(x, text_rotary) for x in (text_query, text_key))
        query, key = (_rotated(x, rotary) for x in (query, key))
        attended = self._attend(
            torch.cat([text_query.flatten(0, 1), query.flatten(0, 1)]),
            torch.cat([text_key.expand(streams, -1, -1, -1), key], dim=1),
            torch.cat([text_value.expand(streams, -1, -1, -1), value], dim=1),
            attention_mask,
        )
        text, image = attended.tensor_split([texts * length])
        image, text = image.unflatten(0, (streams, -1)), text.unflatten(0, (texts, -1))
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with queries (n, heads, head_dim) to keys and values (streams, tokens, heads, head_dim): (n, dim)."""
        key, value = (x.flatten(0, 1)[None] for x in (key, value))  # (1, streams·tokens, heads, head_dim)
        attended = dispatch_attention_fn(query[None], key, value, attn_mask=mask, backend=self._attention_backend)
        return attended[0].flatten(1, 2)

    def of_last(self, attn: FluxAttention, hidden_states: Tensor, rotary: Sequence[Tensor], start: int) -> Tensor:
        """Return the attention of the last stream's tokens from `start` on, of a single block: (1, …, dim).

        `hidden_states` are the tokens of all streams, (streams, tokens, dim).
        """

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, attn.head_dim))

        query = attn.norm_q(heads(_of_last(attn.to_q, hidden_states[-1:, start:])))
        query = _rotated(query, [x[start:] for x in rotary])
        key = _rotated(attn.norm_k(heads(attn.to_k(hidden_states))), rotary)
        return self._attend(query[0], key, heads(attn.to_v(hidden_states)))[None]


def _rotated(x: Tensor, rotary: Any) -> Tensor:
    """Apply FLUX's rotary embeddings, (tokens, head_dim) each, to (streams, tokens, heads, head_dim)."""
    result: Any = apply_rotary_emb(x, rotary, sequence_dim=1)
    return result


def _of_last(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer to tokens (1, tokens, in) of the last stream."""
    if not isinstance(linear, StreamLinear):
        return linear(x)
    return linear.base(x).baddbmm_(torch.bmm(x, linear.A[-1:].mT), linear.B[-1:].mT)


def last_stream(
    block: FluxSingleTransformerBlock, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary: Any
) -> Tensor:
    """Compute the image tokens of the last stream alone, (1, tokens, dim), as the single block does for all streams.

    The others are needed for its keys and values only, where no block follows. Within `installed`.
    """
    start = encoder_hidden_states.shape[1]
    tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    normed, gate = block.norm(tokens, emb=temb)
    processor: Any = block.attn.processor
    attended = processor.of_last(block.attn, normed, rotary, start)
    mlp = block.act_mlp(block.proj_mlp(normed[-1:, start:]))
    result = hidden_states[-1:] + gate[-1:, None] * block.proj_out(torch.cat([attended, mlp], dim=2))
    return result.clip(-65504, 65504) if result.dtype == torch.float16 else result  # as diffusers' block


@contextmanager
def together(
    transformer: FluxTransformer2DModel, layers: Layers, device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Treat a batch of `transformer` as the streams of one panorama, adapted by `layers`, within the block.

    The adapters are copied to `device` and `dtype`, where and in which the transformer computes: with offloading its
    weights are elsewhere, and in a quantised base of another precision.
    """
    with installed(transformer, {name: (A.to(device, dtype), B.to(device, dtype)) for name, (A, B) in layers.items()}):
        yield


@contextmanager
def installed(transformer: FluxTransformer2DModel, layers: Layers) -> Iterator[dict[str, StreamLinear]]:
    """Adapt `transformer` by `layers`, as they are, and share attention among the batch, within the block.

    Yield the adapted layers by name, whose A and B may be replaced by those of other streams.
    """
    processors: dict[str, Any] = transformer.attn_processors
    linears = {name: StreamLinear(transformer.get_submodule(name), A, B) for name, (A, B) in layers.items()}
    for name, linear in linears.items():
        _put(transformer, name, linear)
    shared: dict[str, Any] = {name: SharedAttnProcessor(p._attention_backend) for name, p in processors.items()}
    transformer.set_attn_processor(shared)
    try:
        yield linears
    finally:
        transformer.set_attn_processor(processors)
        for name, linear in linears.items():
            _put(transformer, name, linear.base)


def _put(transformer: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(transformer.get_submodule(parent), child, module)
