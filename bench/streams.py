"""Compare the speed of batched shared attention with the reference's method: `python bench/streams.py`.

In the reference implementation PEFT layers loop over the samples and switch adapters inside `forward`, and keys and
values are copied once per stream. Prints the seconds per step of both on the same random weights, their ratio, and the
largest difference between their results, on the CPU, and on a GPU if there is one.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from panoform.backend.models.flux import stream_adapters
from panoform.backend.pipelines.layers import shared_attention


def add_random_adapters(
    transformer: FluxTransformer2DModel, names: Sequence[str], rank: int
) -> shared_attention.Layers:
    """Add a PEFT adapter per stream to `transformer`; return them in the form of `shared_attention.together`."""
    shapes = stream_adapters.targets(transformer.config)
    config = LoraConfig(r=rank, lora_alpha=8 * rank, target_modules=list(shapes), init_lora_weights=False)
    for name in names:
        transformer.add_adapter(config, adapter_name=name)
    states = [get_peft_model_state_dict(transformer, adapter_name=name) for name in names]

    def stacked(module: str, part: str) -> Tensor:
        return torch.stack([state[f"{module}.lora_{part}.weight"] for state in states])

    # 8: lora_alpha / rank
    return {module: (stacked(module, "A"), 8 * stacked(module, "B")) for module in shapes}


class RepeatedAttnProcessor:
    """Attention of each stream's queries to a copy of the keys and values of all streams."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        q, k = (norm(heads(to(hidden_states))) for norm, to in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k)))
        v = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            q = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), q], dim=1)
            k = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), k], dim=1)
            v = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), v], dim=1)
        q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        count = q.shape[0]
        k, v = (torch.cat(list(x), dim=0)[None].repeat(count, 1, 1, 1) for x in (k, v))
        x = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x.transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return x
        text = encoder_hidden_states.shape[1]
        return attn.to_out[1](attn.to_out[0](x[:, text:])), attn.to_add_out(x[:, :text])


@contextmanager
def reference(transformer: FluxTransformer2DModel, names: Sequence[str]) -> Iterator[None]:
    """Apply PEFT adapter `names[i]` to sample i of the batch, one sample after the other, inside the context."""
    forwards = {module: module.forward for module in transformer.modules() if isinstance(module, LoraLayer)}

    def looped(layer: LoraLayer, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def loop(x: Tensor) -> Tensor:
            outputs = []
            for i, name in enumerate(names):
                layer.set_adapter(name)
                outputs.append(forward(x[i : i + 1]))
            return torch.cat(outputs)

        return loop

    processors = transformer.attn_processors
    transformer.set_attn_processor(RepeatedAttnProcessor())
    for layer, forward in forwards.items():
        layer.forward = looped(layer, forward)
    try:
        yield
    finally:
        transformer.set_attn_processor(processors)
        for layer in forwards:
            del layer.forward


def random_inputs(transformer: FluxTransformer2DModel, count: int, rows: int, columns: int, text: int) -> dict:
    """Return the transformer's arguments of one step for `count` streams of rows × columns tokens."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    inputs = {
        "hidden_states": torch.randn(count, rows * columns, config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(1, text, config.joint_attention_dim, generator=generator).expand(
            count, -1, -1
        ),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim, generator=generator).expand(count, -1),
        "timestep": torch.full([count], 0.6),
        "guidance": torch.full([count], 3.5),
        "txt_ids": torch.zeros(text, 3),
        "img_ids": ids.flatten(0, 1),
    }
    return {name: value.to(transformer.device, transformer.dtype) for name, value in inputs.items()}


def measure(device: str, dtype: torch.dtype, config: dict, size: tuple[int, int, int], count: int, rank: int) -> None:
    """Print the seconds per step of both methods for `count` streams of `size` = (rows, columns, text tokens)."""
    torch.manual_seed(0)
    ours = FluxTransformer2DModel(**config).to(device, dtype).requires_grad_(False)
    plain = copy.deepcopy(ours)
    names = [f"stream{i}" for i in range(count)]
    layers = add_random_adapters(plain, names, rank)
    inputs = random_inputs(ours, count, *size)

    def step(transformer: FluxTransformer2DModel) -> tuple[float, Tensor]:
        start = time.perf_counter()
        result = transformer(**inputs, return_dict=False)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, result

    times: tuple[list[float], list[float]] = ([], [])
    together = shared_attention.together(ours, layers, torch.device(device), ours.dtype)
    with torch.no_grad(), together, reference(plain, names):
        difference = (step(ours)[1] - step(plain)[1]).abs().max().item()
        for _ in range(5):  # alternating, so that varying load affects both
            times[0].append(step(plain)[0])
            times[1].append(step(ours)[0])
    before, after = (statistics.median(seconds) for seconds in times)
    tokens = size[0] * size[1] + size[2]
    print(
        f"{device}, {ours.inner_dim} wide, {count} streams of {tokens} tokens: reference {before:.4f} s/step, ", end=""
    )
    print(f"batched {after:.4f} s/step, ratio {before / after:.2f}, largest difference {difference:.0e}")


def main() -> None:
    torch.set_grad_enabled(False)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are intended
    common = {"num_layers": 2, "guidance_embeds": True}
    starter = {
        "num_attention_heads": 8,
        "attention_head_dim": 32,
        "axes_dims_rope": (4, 14, 14),
        "num_single_layers": 5,
    }
    middle = {"num_attention_heads": 8, "attention_head_dim": 64, "axes_dims_rope": (8, 28, 28), "num_single_layers": 4}
    for count in (2, 3):
        measure("cpu", torch.float32, common | starter, (8, 19, 4), count, rank=24)
        measure("cpu", torch.float32, common | middle, (16, 35, 128), count, rank=64)
    if torch.cuda.is_available():
        # FLUX.1's widths, a sixth of its depth, at 512 × 1024.
        wide = {"num_layers": 3, "num_single_layers": 6, "guidance_embeds": True}
        for count in (2, 3):
            measure("cuda", torch.bfloat16, wide, (32, 67, 512), count, rank=64)


if __name__ == "__main__":
    main()
