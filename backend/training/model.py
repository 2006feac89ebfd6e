"""The starter as it is trained: many panoramas at once, every task's adapters in place, the prompt a parameter.

`Perceiver.velocity` computes what OmniXPipeline computes in one step (a test holds the two together); the pipeline
takes one panorama a call, training takes a batch.
"""

# Sub-modules of a module are declared as modules or tensors.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ..models.flux import stream_adapters
from ..pipelines.layers import circular_padding
from ..pipelines.layers.latents import image_ids, pack, unpack
from .architecture import PANOFORM, POSITION_ROWS, PROMPT_TOKENS, RANK, TASKS, TEXT_DIM, adapted_modules

_STREAMS = 2
#: The first and last layers of a Perceiver.
ENDS = (
    "transformer.x_embedder.weight",
    "transformer.context_embedder.weight",
    "transformer.norm_out.linear.weight",
    "transformer.proj_out.weight",
    "prompt_embeds",
    "pooled_prompt_embeds",
)


class _AdaptedLinear(nn.Module):
    """A Linear and, for each task, the adapters of its streams; batch index = panorama · streams + stream."""

    def __init__(self, base: nn.Linear, task: list[str]) -> None:
        super().__init__()
        self.base = base
        self._task = task
        self.A = nn.ParameterDict()
        self.B = nn.ParameterDict()
        for name in TASKS:
            self.A[name] = nn.Parameter(torch.randn(_STREAMS, RANK, base.in_features) * base.in_features**-0.5)
            self.B[name] = nn.Parameter(torch.zeros(_STREAMS, base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        A, B = self.A[self._task[0]], self.B[self._task[0]]
        n, tokens, _ = x.shape
        by_stream = x.unflatten(0, (-1, _STREAMS)).transpose(0, 1).flatten(1, 2)  # [S, N·T, in]
        added = torch.bmm(torch.bmm(by_stream, A.mT), B.mT)  # [S, N·T, out]
        added = added.unflatten(1, (n // _STREAMS, tokens)).transpose(0, 1).flatten(0, 1)
        return self.base(x) + added


class _SharedAttention:
    """FLUX's attention, the streams of one panorama attending to the tokens of both (reference: OmniX)."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        q, k = attn.norm_q(heads(attn.to_q(hidden_states))), attn.norm_k(heads(attn.to_k(hidden_states)))
        v = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            q = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), q], 1)
            k = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), k], 1)
            v = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), v], 1)
        q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        # [N, S·T, heads, dim]: all streams of a panorama in one sequence
        q, k, v = (x.unflatten(0, (-1, _STREAMS)).flatten(1, 2).transpose(1, 2) for x in (q, k, v.to(q.dtype)))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = out.unflatten(1, (_STREAMS, -1)).flatten(0, 1).to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return out
        text, image = out.tensor_split([encoder_hidden_states.shape[1]], 1)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


def _open_gates(transformer: FluxTransformer2DModel) -> None:
    """Start with modulation that does nothing, gates half open and an output of zero.

    DiT (arXiv 2212.09748) starts with gates shut; half open learns faster in few steps.
    """
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.norm_out.linear.weight)
    norms = []
    for block in transformer.transformer_blocks:
        norms += [(block.norm1.linear, (2, 5)), (block.norm1_context.linear, (2, 5))]
    norms += [(block.norm.linear, (2,)) for block in transformer.single_transformer_blocks]
    for linear, gates in norms:
        nn.init.zeros_(linear.weight)
        chunks = linear.bias.data.chunk(3 * len(gates))
        for gate in gates:
            chunks[gate].fill_(0.5)


def _look_around(transformer: FluxTransformer2DModel) -> None:
    """Start with half of the heads attending to their own place, in both streams.

    Finding its own place by attention would take a token longest to learn (ConViT, arXiv 2103.10697). A query and a key
    that are the same constant meet, under rotary positions, in a sum of cosines of their distance; the three fastest of
    rows and columns make it narrow.
    """
    heads, rows = transformer.config["num_attention_heads"], transformer.config["axes_dims_rope"][:2]
    width = transformer.config["attention_head_dim"]
    place = torch.zeros(width)
    for start in (rows[0], rows[0] + rows[1]):
        place[start : start + 6] = 3.0
    bias = torch.cat([place.repeat(heads // 2), torch.zeros(width * (heads - heads // 2))])
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        for linear, norm in ((block.attn.to_q, block.attn.norm_q), (block.attn.to_k, block.attn.norm_k)):
            linear.bias.data.copy_(bias)
            norm.weight.data.fill_(1.5)


class Perceiver(nn.Module):
    """Transformer, adapters of all tasks and the prompt. Its parameters are trained together."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self._task = [""]
        for linear in transformer.modules():
            if isinstance(linear, nn.Linear) and linear.bias is not None:
                nn.init.zeros_(linear.bias)
        _open_gates(transformer)
        _look_around(transformer)
        self.names = adapted_modules(transformer)
        for name in self.names:
            parent, _, child = name.rpartition(".")
            adapted = _AdaptedLinear(transformer.get_submodule(name), self._task)
            setattr(transformer.get_submodule(parent), child, adapted)
        transformer.set_attn_processor(_SharedAttention())
        self.transformer = transformer
        self.prompt_embeds = nn.Parameter(torch.randn(1, PROMPT_TOKENS, TEXT_DIM))
        self.pooled_prompt_embeds = nn.Parameter(torch.randn(1, TEXT_DIM))

    def velocity(self, task: str, condition: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Velocity of the target stream, (N, C, h, w + 6).

        `condition` and `target` are latents (N, C, h, w + 6), already extended; `t` is (N,) in [0, 1].
        """
        self._task[0] = task
        n, _, h, w = target.shape
        both = torch.stack([condition, target], 1).flatten(0, 1)  # [N·S, C, h, w]
        rows, columns = h // 2, w // 2
        ids = image_ids(rows, columns, target.device) * (POSITION_ROWS / rows)
        out = self.transformer(
            hidden_states=pack(both),
            encoder_hidden_states=self.prompt_embeds.expand(2 * n, -1, -1),
            pooled_projections=self.pooled_prompt_embeds.expand(2 * n, -1),
            timestep=t.repeat_interleave(_STREAMS),
            guidance=torch.full((2 * n,), PANOFORM["guidance_scale"], device=target.device),
            txt_ids=torch.zeros(PROMPT_TOKENS, 3, device=target.device),
            img_ids=ids,
            return_dict=False,
        )[0]
        return unpack(out[1::2].float(), rows)

    def perceive(self, task: str, condition: Tensor) -> Tensor:
        """The target's latents (N, C, h, w) from the condition's, in one step from the condition itself at t = 1.

        The picture's own latents are a better start than an empty slot or noise (DepthFM, arXiv 2403.13788): what the
        picture says of a place is there at once, and need not come by attention.
        """
        condition = circular_padding.extend(condition)
        ended = condition - self.velocity(
            task, condition, condition, torch.ones(len(condition), device=condition.device)
        )
        # The pipeline blends after every step, and once more at the end.
        return circular_padding.close(circular_padding.blend(ended))

    def base_state(self) -> dict[str, Tensor]:
        """The transformer's own weights, under diffusers' names."""
        state = self.transformer.state_dict()
        return {
            key.replace(".base.", "."): value for key, value in state.items() if ".A." not in key and ".B." not in key
        }

    def load_starter(self, folder: Path) -> None:
        """Take over the weights of a starter folder of this architecture. Raises AdapterError and OSError."""
        transformer = FluxTransformer2DModel.from_pretrained(
            folder / "transformer", torch_dtype=torch.float32, use_safetensors=True
        )
        own = {key.replace(".base.", "."): key for key in self.state_dict()}
        state = {own[f"transformer.{key}"]: value for key, value in transformer.state_dict().items()}
        shapes = stream_adapters.targets(transformer.config)
        for task, streams in TASKS.items():
            files = [stream_adapters.find(folder / "adapters", task, stream) for stream in streams]
            for name, pair in stream_adapters.stack(
                [stream_adapters.read(file, shapes) for file in files], torch.float32
            ).items():
                state |= {f"transformer.{name}.{part}.{task}": x for part, x in zip("AB", pair, strict=True)}
        self.load_state_dict(state | load_file(folder / "prompt_embeds.safetensors"))

    def adapter_state(self, task: str, stream: int) -> dict[str, Tensor]:
        """One stream's adapter, under PEFT's names."""
        state = {}
        for name in self.names:
            module = self.transformer.get_submodule(name)
            state[f"transformer.{name}.lora_A.weight"] = module.A[task][stream].detach()
            state[f"transformer.{name}.lora_B.weight"] = module.B[task][stream].detach()
        return state
