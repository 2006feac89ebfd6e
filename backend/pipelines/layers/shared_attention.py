"""Streams computed in one batch: one LoRA product per layer, one attention over shared keys and values.

A stream is one batch element of the transformer, with its own adapter (OmniX, arXiv 2510.26800). The reference loops
over the samples, switching adapters, and copies keys and values once per stream; this module needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxTransformer2DModel
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

    All streams see the same keys and values, so their queries go through one attention call as one long sequence.
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
        if encoder_hidden_states is not None:
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), query], dim=1)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), key], dim=1)
            value = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), value], dim=1)
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (query, key))

        streams = hidden_states.shape[0]
        # (1, streams·tokens, heads, head_dim): views, not copies
        query, key, value = (x.flatten(0, 1)[None] for x in (query, key, value))  # pyright: ignore
        attended = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=self._attention_backend)
        attended = attended.flatten(2, 3).unflatten(1, (streams, -1))[0]  # (streams, tokens, dim)

        if encoder_hidden_states is None:
            return attended
        text, image = attended.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


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
