"""The transformer block by block compared with FluxTransformer2DModel.forward.

A plain batch is bit-identical. Of streams, what the target does not depend on is left out, so that products have other
shapes: they differ by rounding, but are bit-identical for several batches and each alone.
"""

import copy
from functools import partial
from itertools import chain

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from torch._dynamo.utils import counters

from panoform.backend.models import kernels, quantised
from panoform.backend.models.flux import stream_adapters
from panoform.backend.models.links import ThreadLink
from panoform.backend.models.residency import Residency, Streaming
from panoform.backend.pipelines.layers import modulation, shared_attention
from panoform.backend.pipelines.layers.denoiser import Batch, denoiser
from panoform.shared.engines import EngineSettings
from panoform.shared.protocol.errors import SettingError

CPU = torch.device("cpu")
TIMESTEPS = torch.tensor([1000.0, 812.5, 333.3])
GUIDANCE, TEXT, ROWS, COLUMNS = 3.5, 5, 2, 5
CONFIG = {
    "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2,
    "axes_dims_rope": (4, 14, 14), "joint_attention_dim": 24, "pooled_projection_dim": 16, "guidance_embeds": True,
}  # fmt: skip
IDS = torch.tensor([[0.0, row, column] for row in range(ROWS) for column in range(COLUMNS)])


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def transformer(request) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(**CONFIG).to(request.param).eval().requires_grad_(False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(rows: int, step: int) -> torch.Tensor:
    return random(rows, ROWS * COLUMNS, 64, seed=step)


def prompts(rows: int, dtype: torch.dtype, different: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    count = rows if different else 1
    embeds, pooled = random(count, TEXT, 24).to(dtype), random(count, 16, seed=1).to(dtype)
    return embeds.expand(rows, -1, -1), pooled.expand(rows, -1)


def adapters(transformer: FluxTransformer2DModel, rows: int, seed: int) -> dict:
    generator, layers = torch.Generator().manual_seed(seed), {}
    for name, (out, inner) in stream_adapters.targets(transformer.config).items():
        A, B = (torch.randn(rows, *shape, generator=generator) * 0.2 for shape in ((3, inner), (out, 3)))
        layers[name] = A.to(transformer.dtype), B.to(transformer.dtype)
    return layers


def forward(transformer: FluxTransformer2DModel, batch: Batch, step: int) -> torch.Tensor:
    """Return the result of diffusers' own forward."""
    rows = batch.rows
    return transformer(
        hidden_states=tokens(rows, step).to(transformer.dtype),
        encoder_hidden_states=batch.prompt_embeds.expand(rows, -1, -1),
        pooled_projections=batch.pooled_prompt_embeds, timestep=(TIMESTEPS[step] / 1000).expand(rows),
        guidance=torch.full([rows], GUIDANCE), txt_ids=torch.zeros(TEXT, 3), img_ids=IDS, return_dict=False,
    )[0]  # fmt: skip


def denoise(transformer: FluxTransformer2DModel, batches: list[Batch], **options) -> list[list[torch.Tensor]]:
    """Return the velocities of each step and batch."""
    options = {"dtype": transformer.dtype, "residency": Residency(CPU)} | options
    with denoiser(transformer, batches, TIMESTEPS, GUIDANCE, IDS, **options) as predict:
        rows = [batch.rows for batch in batches]
        return [predict(step, [tokens(n, step).to(transformer.dtype) for n in rows]) for step in range(len(TIMESTEPS))]


def streams(transformer: FluxTransformer2DModel, rows: int, seed: int) -> Batch:
    embeds, pooled = prompts(rows, transformer.dtype)
    return Batch(embeds[:1], pooled, adapters(transformer, rows, seed))


def assert_equal(found: list[list[torch.Tensor]], expected: list[list[torch.Tensor]]) -> None:
    for a, b in zip(chain(*found), chain(*expected), strict=True):
        assert torch.equal(a, b), (a - b).abs().max()


@pytest.mark.parametrize("different", [False, True])
def test_plain_batch_is_computed_as_by_diffusers(transformer, different):
    batch = Batch(*prompts(2, transformer.dtype, different), {})
    assert_equal(denoise(transformer, [batch]), [[forward(transformer, batch, step)] for step in range(3)])


@pytest.mark.slow
def test_each_of_several_batches_is_computed_as_alone(transformer):
    """With two and three streams and adapters of their own: bit by bit as alone, and the target as by diffusers."""
    batches = [streams(transformer, rows, seed) for seed, rows in enumerate((2, 3, 2))]
    found = denoise(transformer, batches)
    alone = [denoise(transformer, [batch]) for batch in batches]
    assert_equal(found, [[each[step][0] for each in alone] for step in range(3)])
    exact = copy.deepcopy(transformer).float()
    for i, batch in enumerate(batches):
        both = []
        for model in (transformer, exact):
            with shared_attention.together(model, batch.layers, CPU, model.dtype):
                given = Batch(batch.prompt_embeds.to(model.dtype), batch.pooled_prompt_embeds.to(model.dtype), {})
                both.append(torch.stack([forward(model, given, step)[-1:] for step in range(3)]).float())
        ours, expected = torch.stack([each[i] for each in found]).float(), both[1]
        # As far from the result in float32 as diffusers' own is
        limit = 1e-5 if transformer.dtype == torch.float32 else 1.3 * (both[0] - expected).abs().mean()
        assert (ours - expected).abs().mean() < limit


@pytest.mark.slow
def test_lora_of_modulation_is_applied(transformer):
    """LoRAs of other trainers adapt these layers too; OmniX's and DiT360's don't."""
    batch = Batch(*prompts(2, transformer.dtype), {})
    plain = denoise(transformer, [batch])
    targets = [f"{name}.linear" for name in modulation.norms(transformer)]
    torch.manual_seed(1)
    transformer.add_adapter(LoraConfig(r=3, lora_alpha=9, target_modules=targets, init_lora_weights=False))
    adapted = denoise(transformer, [batch])
    assert not torch.equal(adapted[0][0], plain[0][0])
    assert_equal(adapted, [[forward(transformer, batch, step)] for step in range(3)])


def test_modulation_is_not_needed_while_denoising(transformer):
    batch = Batch(*prompts(2, transformer.dtype), {})
    expected, modules = denoise(transformer, [batch]), dict(transformer.named_modules())
    broken = copy.deepcopy(transformer)
    linears = [broken.get_submodule(name).linear for name in modulation.norms(broken)]
    with denoiser(broken, [batch], TIMESTEPS, GUIDANCE, IDS, dtype=broken.dtype, residency=Residency(CPU)) as predict:
        for linear in linears:
            linear.weight.fill_(torch.nan)
        found = [predict(step, [tokens(2, step).to(broken.dtype)]) for step in range(3)]
    assert_equal(found, expected)
    assert dict(transformer.named_modules()) == modules


def test_table_holds_one_row_where_all_are_equal(transformer):
    embeddings = [random(1, 64, seed=i).to(transformer.dtype).expand(2, -1) for i in range(3)]
    other = [random(2, 64, seed=i).to(transformer.dtype) for i in range(3)]
    one, both = modulation.tabulate(transformer, [embeddings, other])
    assert {tuple(value.shape) for value in one.values()} == {(3, 1, n * 64) for n in (2, 3, 6)}
    assert {tuple(value.shape) for value in both.values()} == {(3, 2, n * 64) for n in (2, 3, 6)}


@pytest.mark.slow
def test_full_size_needs_less_than_three_quarters_of_the_weights():
    """FLUX.1-dev's parameters by its config: 11.90 G, of which 8.65 G are needed while denoising."""
    with init_empty_weights():
        transformer = FluxTransformer2DModel(guidance_embeds=True)
    assert sum(x.numel() for x in transformer.parameters()) == pytest.approx(11.90e9, abs=5e6)
    with modulation.replaced(transformer):
        assert sum(x.numel() for x in transformer.parameters()) <= 8.66e9


@pytest.mark.slow
def test_check_stops_within_a_step_and_restores_the_transformer(transformer):
    batches = [streams(transformer, 2, seed) for seed in range(2)]
    expected, modules = denoise(transformer, batches), dict(transformer.named_modules())
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 14:  # two batches of five blocks a step
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise(transformer, batches, check=check)
    assert dict(transformer.named_modules()) == modules
    assert_equal(denoise(transformer, batches), expected)


@pytest.mark.slow
def test_step_is_computed_again_where_another_program_takes_memory(transformer, caplog):
    """The device runs out of memory twice in one step; results don't change, and fewer weights stay."""
    batches = [streams(transformer, 2, seed) for seed in range(2)]
    expected = denoise(transformer, batches)
    residency, calls, streamed = Streaming(ThreadLink()), [], []

    def check() -> None:
        calls.append(None)
        streamed.append(residency.streamed)
        if len(calls) in (13, 18):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert_equal(denoise(transformer, batches, residency=residency, check=check), expected)
    assert streamed[0] == 0 < streamed[13] < streamed[18]
    assert len(caplog.records) == 2

    def always() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        denoise(transformer, batches, residency=residency, check=always)
    assert_equal(denoise(transformer, batches), expected)


@pytest.mark.slow
@pytest.mark.parametrize("transformer", [torch.float32], indirect=True)
def test_first_block_cache_adds_what_the_other_blocks_added_before(transformer):
    """In closed form: the first block of each step, and the changes that the others made in the first step."""
    batches = [streams(transformer, 2, seed) for seed in range(2)]
    exact, calls = denoise(transformer, batches), []
    assert_equal(denoise(transformer, batches, cache=1e-9), exact)
    block, final = transformer.transformer_blocks[0], transformer.norm_out
    made: list[list[torch.Tensor]] = [[], []]
    hooks = [
        block.register_forward_hook(lambda _, args, out: made[0].append(out[1][-1:])),
        final.register_forward_pre_hook(lambda _, args: made[1].append(args[0])),
    ]
    found = denoise(transformer, batches, cache=1e9, check=lambda: calls.append(None))
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2 * (5 + 1 + 1)  # two batches, five blocks, then the first one alone
    assert_equal(found[:1], exact[:1])
    first, last = made
    for call in range(2, 6):
        batch = call % 2
        torch.testing.assert_close(last[call], first[call] + (last[batch] - first[batch]))
        assert not torch.equal(found[call // 2][batch], exact[call // 2][batch])


@pytest.mark.parametrize("transformer", [torch.float32], indirect=True)
def test_first_block_cache_leaves_streaming_in_order(transformer):
    batches = [streams(transformer, 2, seed) for seed in range(2)]
    expected = denoise(transformer, batches, cache=1e9)
    link = ThreadLink()
    assert_equal(denoise(transformer, batches, cache=1e9, residency=Streaming(link, resident=False)), expected)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_and_are_compiled_once():
    """Not again for the adapters of other tasks."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**CONFIG | {"num_layers": 1, "num_single_layers": 2}).eval().requires_grad_(False)
    try:
        kernels.check(EngineSettings(compile=True), CPU, torch.float32)
    except SettingError as error:
        pytest.skip(error.message)
    first, others = ([streams(model, 2, seed + i) for i in range(2)] for seed in (0, 5))
    expected = denoise(model, first), denoise(model, others)
    kernels.apply(EngineSettings(compile=True), model)
    graphs = []
    for batches, exact in zip((first, others), expected, strict=True):
        for a, b in zip(chain(*denoise(model, batches)), chain(*exact), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1]


@pytest.mark.slow
def test_compiled_blocks_take_quantised_weights_of_all_heights_and_numbers_of_tasks(monkeypatch):
    """Of PyTorch's compiler only the tracing is used, which needs no C++ compiler."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**CONFIG | {"num_layers": 1, "num_single_layers": 2}).eval().requires_grad_(False)
    quantised.round_linears(model, "I8")
    compiled = copy.deepcopy(model)
    compile_blocks = partial(FluxTransformer2DModel.compile_repeated_blocks, compiled, backend="eager")
    monkeypatch.setattr(compiled, "compile_repeated_blocks", compile_blocks)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    kernels.apply(EngineSettings(compile=True), compiled)
    graphs = []
    for columns in (5, 6, 9):
        monkeypatch.setattr(f"{__name__}.COLUMNS", columns)
        monkeypatch.setattr(
            f"{__name__}.IDS", torch.cartesian_prod(*(torch.arange(n * 1.0) for n in (1, ROWS, columns)))
        )
        for count in (1, 2):
            batches = [streams(model, 2, seed) for seed in range(count)]
            found, expected = denoise(compiled, batches), denoise(model, batches)
            for a, b in zip(chain(*found), chain(*expected), strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] < graphs[1] == graphs[2]  # the first other height is compiled for all heights
