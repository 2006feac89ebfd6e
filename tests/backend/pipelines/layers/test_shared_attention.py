"""Batched streams compared with the reference: PEFT's own layers, sample by sample, with copied keys and values."""

import importlib.util
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

from panoform.backend.models.flux import stream_adapters
from panoform.backend.pipelines.layers import shared_attention

_PATH = Path(__file__).parents[4] / "bench" / "streams.py"
_SPEC = importlib.util.spec_from_file_location("bench_streams", _PATH)
assert _SPEC
assert _SPEC.loader
bench_streams = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench_streams)

CPU = torch.device("cpu")
CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "num_layers": 2,
    "num_single_layers": 2,
    "guidance_embeds": True,
}


def build(dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(**CONFIG).requires_grad_(False).to(dtype)


@pytest.fixture(params=[2, 3])
def case(request):
    """Return (plain FLUX, the same with PEFT adapters, the stacked adapters, their names, the inputs of one step)."""
    names = [f"stream{i}" for i in range(request.param)]
    plain, peft = build(), build()
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        layers = bench_streams.add_random_adapters(peft, names, rank=4)
    inputs = bench_streams.random_inputs(plain, len(names), rows=4, columns=7, text=5)
    inputs["encoder_hidden_states"] = torch.randn(len(names), 5, 32)  # a different text for each stream
    return plain, peft, layers, names, inputs


def run(transformer, inputs) -> torch.Tensor:
    return transformer(**inputs, return_dict=False)[0]


def together(transformer, layers, inputs) -> torch.Tensor:
    with shared_attention.together(transformer, layers, CPU, transformer.dtype):
        return run(transformer, inputs)


@pytest.mark.slow
def test_together_equals_sequential_streams(case):
    plain, peft, layers, names, inputs = case
    with bench_streams.reference(peft, names):
        expected = run(peft, inputs)
    torch.testing.assert_close(together(plain, layers, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_every_adapter_affects_the_result(case):
    plain, _, layers, _, inputs = case
    expected = together(plain, layers, inputs)
    for name, (A, B) in layers.items():
        for stream in range(len(A)):
            without = B.clone()
            without[stream] = 0
            result = together(plain, layers | {name: (A, without)}, inputs)
            assert (result - expected).abs().max() > 1e-4, f"{name} of stream {stream} is not applied"


@pytest.mark.slow
def test_streams_attend_to_each_other(case):
    plain, _, layers, _, inputs = case
    changed = inputs | {"hidden_states": inputs["hidden_states"].clone()}
    changed["hidden_states"][-1] += 1
    difference = (together(plain, layers, changed) - together(plain, layers, inputs)).abs().amax(dim=(1, 2))
    assert (difference > 1e-4).all()


@pytest.mark.slow
def test_single_stream_with_zero_adapter_equals_plain_flux(case):
    plain, _, layers, _, inputs = case
    inputs = {name: x if name.endswith("_ids") else x[:1] for name, x in inputs.items()}
    empty = {name: (A[:1], torch.zeros_like(B[:1])) for name, (A, B) in layers.items()}
    torch.testing.assert_close(together(plain, empty, inputs), run(plain, inputs))


def test_transformer_is_restored_afterwards(case):
    plain, _, layers, _, inputs = case
    before, keys = run(plain, inputs), list(plain.state_dict())
    modules = dict(plain.named_modules())
    with shared_attention.together(plain, layers, CPU, plain.dtype):
        assert isinstance(plain.get_submodule("transformer_blocks.0.attn.to_out.0"), shared_attention.StreamLinear)
    with pytest.raises(RuntimeError):
        together(plain, layers, inputs | {"hidden_states": inputs["hidden_states"][..., :3]})
    assert dict(plain.named_modules()) == modules
    assert list(plain.state_dict()) == keys
    assert torch.equal(run(plain, inputs), before)


def test_gradients_reach_every_adapter():
    """The code for inference also supports backpropagation."""
    transformer, generator = build(), torch.Generator().manual_seed(0)
    layers = {
        name: (
            torch.randn(2, 4, columns, generator=generator).requires_grad_(),
            torch.randn(2, rows, 4, generator=generator).requires_grad_(),
        )
        for name, (rows, columns) in stream_adapters.targets(transformer.config).items()
    }
    inputs = bench_streams.random_inputs(transformer, 2, rows=2, columns=4, text=3)
    together(transformer, layers, inputs)[-1].square().mean().backward()
    for name, factors in layers.items():
        for factor in factors:
            assert factor.grad is not None, name
            assert factor.grad.abs().max() > 0, name


@pytest.mark.slow
def test_bfloat16_error_is_no_larger_than_the_references(case):
    plain, peft, layers, names, inputs = case
    expected = together(plain, layers, inputs)
    bfloat16_inputs = {name: x.bfloat16() for name, x in inputs.items()}
    result = together(build(torch.bfloat16), layers, bfloat16_inputs)
    assert result.dtype == torch.bfloat16
    with bench_streams.reference(peft.to(torch.bfloat16), names):
        plain_error = (run(peft, bfloat16_inputs) - expected).abs().mean()
    assert (result - expected).abs().mean() < 1.2 * plain_error
