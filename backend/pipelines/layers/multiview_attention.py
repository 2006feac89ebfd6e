"""Self-attention with two more branches: to the same row or column of other views, and to a reference picture.

MV-Adapter (arXiv 2412.03632). In every self-attention of the U-Net, `out = to_out(SA) + mv_scale · to_out_mv(MV) +
reference_scale · to_out_ref(REF)`, where SA, MV and REF read the same normalised input x (batch, h·w, C), row by row.
The latents are square. The batch is (unconditional views, conditional views) or the latter alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

#: "row": any number of views, each row sees that row of all views. "row_col": six views, front, right, back, left, top,
#: bottom; rows join the first four, columns join front, back, top, bottom.
Layout = Literal["row", "row_col"]

_AROUND, _UPRIGHT = (0, 1, 2, 3), (0, 2, 4, 5)


@dataclass
class MultiViewState:
    """What the attentions of a U-Net share during a call."""

    #: Number of views; 0: plain self-attention that records its inputs as those of the reference picture.
    views: int = 0
    mv_scale: float = 1.0
    reference_scale: float = 1.0
    #: Name of the module → its input (1, tokens, C) in the pass over the reference picture.
    reference: dict[str, Tensor] = field(default_factory=dict)


class MultiViewAttnProcessor(nn.Module):
    """The self-attention of one module, with the adapter's weights. It is plain until `state` is set by `active`."""

    def __init__(self, name: str, channels: int, layout: Layout, reference: bool) -> None:
        super().__init__()
        self.name, self.has_reference = name, reference
        self.layout: Layout = layout
        self.state: MultiViewState | None = None
        for branch in ("mv", "ref") if reference else ("mv",):
            for kind in "qkv":
                self.add_module(f"to_{kind}_{branch}", nn.Linear(channels, channels, bias=False))
            self.add_module(f"to_out_{branch}", nn.ModuleList([nn.Linear(channels, channels)]))

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Map (batch, tokens, C) to the same shape."""
        x, state, base = hidden_states, self.state, cast("Any", attn)
        out = base.to_out[0](attention(attn, base.to_q(x), base.to_k(x), base.to_v(x)))
        if state is None:
            return out
        if not state.views:
            state.reference[self.name] = x
            return out
        out = out + state.mv_scale * self._layer("out_mv")(self._other_views(attn, x, state.views))
        if self.has_reference:
            out = out + state.reference_scale * self._reference(attn, x, state)
        return out

    def _layer(self, name: str) -> nn.Module:
        """Return the adapter's layer `to_{name}`."""
        return self.get_submodule(f"to_{name}.0" if name.startswith("out") else f"to_{name}")

    def _other_views(self, attn: Attention, x: Tensor, views: int) -> Tensor:
        """Attend to the tokens in the same row, and column, of other views: (batch, tokens, C) → the same shape."""
        side = math.isqrt(x.shape[1])
        # (group, view, row, column, C), a group for each half of the batch
        q, k, v = (self._layer(f"{kind}_mv")(x).unflatten(1, (side, side)).unflatten(0, (-1, views)) for kind in "qkv")
        if self.layout == "row":
            return _along_rows(attn, q, k, v).flatten(0, 1).flatten(1, 2)
        rows = _along_rows(attn, *(y[:, _AROUND] for y in (q, k, v)))
        # The columns of the front continue in those of the others once it is mirrored.
        upright = [_mirror_front(y[:, _UPRIGHT]).transpose(2, 3) for y in (q, k, v)]
        columns = _mirror_front(_along_rows(attn, *upright).transpose(2, 3))
        front, back = (rows[:, 0] + columns[:, 0]) / 2, (rows[:, 2] + columns[:, 1]) / 2
        joined = [front, rows[:, 1], back, rows[:, 3], columns[:, 2], columns[:, 3]]
        return torch.stack(joined, dim=1).flatten(0, 1).flatten(1, 2)

    def _reference(self, attn: Attention, x: Tensor, state: MultiViewState) -> Tensor:
        """Attend to the reference picture: (batch, tokens, C) → the same shape, after `to_out_ref`.

        The unconditional half sees zeros instead of the picture, so that only the bias of `to_out_ref` remains there.
        """
        reference = state.reference[self.name]
        conditional = x[-state.views :]
        query = self._layer("q_ref")(conditional).flatten(0, 1)[None]  # all views see the same keys
        attended = attention(attn, query, self._layer("k_ref")(reference), self._layer("v_ref")(reference))
        attended = attended[0].unflatten(0, (state.views, -1))
        zeros = torch.zeros_like(x[: -state.views])
        return self._layer("out_ref")(torch.cat([zeros, attended]))


def attention(attn: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of (batch, tokens, C), whose softmax is computed in float32."""
    dtype = value.dtype
    q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (query, key, value))
    if attn.upcast_attention:
        q, k, v = q.float(), k.float(), v.float()
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).to(dtype)


def _along_rows(attn: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend within each row of all views: (groups, views, rows, columns, C) → the same shape."""
    groups, views, rows, columns, _ = query.shape
    q, k, v = (y.transpose(1, 2).flatten(2, 3).flatten(0, 1) for y in (query, key, value))
    attended = attention(attn, q, k, v)  # (groups·rows, views·columns, C)
    return attended.unflatten(0, (groups, rows)).unflatten(2, (views, columns)).transpose(1, 2)


def _mirror_front(views: Tensor) -> Tensor:
    """Mirror the first of (groups, views, rows, columns, C) left-right."""
    return torch.cat([views[:, :1].flip(3), views[:, 1:]], dim=1)


def processors(unet: UNet2DConditionModel, layout: Layout, reference: bool) -> dict[str, MultiViewAttnProcessor]:
    """Create the processors of all self-attentions of `unet`, by name of the attention module, without weights."""
    created = {}
    with torch.device("meta"):
        for name, module in unet.named_modules():
            if isinstance(module, Attention) and name.endswith("attn1"):
                created[name] = MultiViewAttnProcessor(name, module.inner_dim, layout, reference)
    return created


def install(unet: UNet2DConditionModel, processors: Mapping[str, MultiViewAttnProcessor]) -> None:
    """Replace the processors of the modules that are named."""
    current: Any = unet.attn_processors
    unet.set_attn_processor(current | {f"{name}.processor": new for name, new in processors.items()})


def installed(unet: UNet2DConditionModel) -> tuple[Layout, bool] | None:
    """Return layout, and whether there is a reference, of the processors of all self-attentions; None: others."""
    found: set[tuple[Layout, bool] | None] = {
        (processor.layout, processor.has_reference) if isinstance(processor, MultiViewAttnProcessor) else None
        for name, processor in unet.attn_processors.items()
        if name.endswith("attn1.processor")
    }
    return found.pop() if len(found) == 1 else None


@contextmanager
def removed(unet: UNet2DConditionModel) -> Iterator[list[MultiViewAttnProcessor]]:
    """Within the block `unet` has plain self-attentions; return the processors that are put back after it."""
    used = {name: p for name, p in unet.attn_processors.items() if isinstance(p, MultiViewAttnProcessor)}
    current: Any = unet.attn_processors
    unet.set_attn_processor(current | dict.fromkeys(used, AttnProcessor2_0()))
    try:
        yield list(used.values())
    finally:
        unet.set_attn_processor(current)


@contextmanager
def active(unet: UNet2DConditionModel, state: MultiViewState) -> Iterator[None]:
    """Within the block the self-attentions of `unet` use `state`. It is not passed as an argument of the U-Net, of
    whose dictionaries Accelerate's hooks make copies."""
    used = [p for p in unet.attn_processors.values() if isinstance(p, MultiViewAttnProcessor)]
    for processor in used:
        processor.state = state
    try:
        yield
    finally:
        for processor in used:
            processor.state = None
