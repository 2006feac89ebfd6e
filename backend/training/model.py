"""The starter in training: batches of panoramas, the adapters of all tasks, and the prompt as a parameter.

`Perceiver.velocity` computes the same as one step of OmniXPipeline, which a test verifies; the pipeline processes one
panorama per call, training a batch.
"""

# Sub-modules of a module are declared as modules or tensors.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from ..models import weights
from ..models.flux import stream_adapters
from ..pipelines.layers import circular_padding
from ..pipelines.layers.latents import image_ids, pack, unpack
from .architecture import PANOFORM, POSITION_ROWS, PROMPT_TOKENS, RANK, TASKS, TEXT_DIM, adapted_modules

_STREAMS = 2
#: The first and last layers of a Perceiver.
END_LAYERS = (
    "transformer.x_embedder.weight",
    "transformer.context_embedder.weight",
    "transformer.norm_out.linear.weight",
    "transformer.proj_out.weight",
    "prompt_embeds",
    "pooled_prompt_embeds",
)


class _AdaptedLinear(nn.Module):
    """A Linear with the adapters of each task's streams; batch index = panorama · streams + stream."""

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
    """FLUX's attention, in which each stream attends to the tokens of both streams (reference: OmniX)."""

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


def _init_modulation(transformer: FluxTransformer2DModel) -> None:
    """Initialise with identity modulation, gates of 0.5 and an output of zero.

    DiT (arXiv 2212.09748) initialises gates with zero; 0.5 learns faster in few steps.
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


def _init_local_attention(transformer: FluxTransformer2DModel) -> None:
    """Initialise half of the heads to attend to their own position in both streams.

    Local attention would take longest to learn (ConViT, arXiv 2103.10697). With rotary positions, the product of a
    query and a key of the same constant value is a sum of cosines of their distance; the three highest frequencies of
    rows and columns make its peak narrow.
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
    """The transformer, the adapters of all tasks, and the prompt, trained together."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self._task = [""]
        for linear in transformer.modules():
            if isinstance(linear, nn.Linear) and linear.bias is not None:
                nn.init.zeros_(linear.bias)
        _init_modulation(transformer)
        _init_local_attention(transformer)
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
        """Return the velocity of the target stream, (N, C, h, w + 6).

        `condition` and `target` are latents (N, C, h, w + 6), extended circularly; `t` is (N,) in [0, 1].
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
        """Return the target's latents (N, C, h, w), in one step from the condition's latents at t = 1.

        The picture's latents are a better start than zeros or noise (DepthFM, arXiv 2403.13788): local information is
        available directly, without attention.
        """
        condition = circular_padding.extend(condition)
        ended = condition - self.velocity(
            task, condition, condition, torch.ones(len(condition), device=condition.device)
        )
        # The pipeline blends the circular overlap after every step, and again at the end.
        return circular_padding.close(circular_padding.blend(ended))

    def base_state(self) -> dict[str, Tensor]:
        """Return the transformer's weights without adapters, under diffusers' names."""
        state = self.transformer.state_dict()
        return {
            key.replace(".base.", "."): value for key, value in state.items() if ".A." not in key and ".B." not in key
        }

    def load_starter(self, folder: Path) -> None:
        """Load the weights of a starter folder of this architecture. Raise AdapterError and OSError."""
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
        self.load_state_dict(state | weights.load(folder / "prompt_embeds.safetensors"))

    def adapter_state(self, task: str, stream: int) -> dict[str, Tensor]:
        """Return the adapter of one stream, under PEFT's names."""
        state = {}
        for name in self.names:
            module = self.transformer.get_submodule(name)
            state[f"transformer.{name}.lora_A.weight"] = module.A[task][stream].detach()
            state[f"transformer.{name}.lora_B.weight"] = module.B[task][stream].detach()
        return state
