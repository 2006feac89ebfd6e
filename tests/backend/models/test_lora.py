"""LoRAs are read exactly, alpha / r · B · A, in every naming, or refused with keys of the file and the reason."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from panoform.backend.models import lora
from panoform.backend.models.flux import stream_adapters
from panoform.backend.pipelines.dit360 import DiT360Pipeline
from panoform.shared.protocol.errors import AdapterError

GOLDEN = Path(__file__).parents[2] / "golden"
RANK = 4
Tensors = dict[str, torch.Tensor]
#: BFL's module → diffusers' modules, in a model of one's own words: what ComfyUI's key map does.
FUSED = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{c}" for c in "qkv"],
    "double_blocks.1.txt_attn.qkv": [f"transformer_blocks.1.attn.add_{c}_proj" for c in "qkv"],
    "double_blocks.0.img_mlp.2": ["transformer_blocks.0.ff.net.2"],
    "double_blocks.0.txt_mod.lin": ["transformer_blocks.0.norm1_context.linear"],
    "single_blocks.0.linear1": [
        *(f"single_transformer_blocks.0.attn.to_{c}" for c in "qkv"),
        "single_transformer_blocks.0.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
}


@pytest.fixture(scope="module")
def pipeline():
    pipe = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def linear(pipeline, name: str) -> torch.nn.Linear:
    module = pipeline.transformer.get_submodule(name)
    return getattr(module, "base_layer", module)


def factors(pipeline, modules: list[str], seed: int = 0, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random A and B for modules that share their input."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(linear(pipeline, name).out_features for name in modules)
    columns = linear(pipeline, modules[0]).in_features
    return (
        torch.randn(rank, columns, generator=generator),
        torch.randn(rows, rank, generator=generator),
    )


def written(pipeline, prefix: str = "", names: tuple[str, str] = ("lora_A", "lora_B"), alpha: float | None = None,
            underscores: bool = False, table: dict[str, list[str]] = FUSED) -> tuple[Tensors, Tensors]:  # fmt: skip
    """Return a state dict in BFL's naming, and diffusers' module → the change of its weight without a config."""
    state, deltas = {}, {}
    for seed, (alias, modules) in enumerate(table.items()):
        A, B = factors(pipeline, modules, seed)
        name = prefix + (alias.replace(".", "_") if underscores else alias)
        state |= {f"{name}.{names[0]}.weight": A, f"{name}.{names[1]}.weight": B}
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
        sizes = [linear(pipeline, module).out_features for module in modules]
        delta = (1 if alpha is None else alpha / RANK) * B @ A
        deltas |= dict(zip(modules, delta.split(sizes), strict=True))
    return state, deltas


def applied(pipeline, source) -> Tensors:
    """Load a LoRA, and return module → the change of its weight as PEFT computes it."""
    with lora.applied(pipeline, source):
        return {
            name: module.get_delta_weight(module.active_adapters[0]).detach().clone()
            for name, module in pipeline.transformer.named_modules()
            if hasattr(module, "get_delta_weight")
        }


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        torch.testing.assert_close(found[name], delta, msg=lambda text, name=name: f"{name}: {text}")


def save(folder: Path, state: Tensors, config: dict | None = None, header: dict[str, str] | None = None) -> Path:
    save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / "löra.safetensors", header)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder / "löra.safetensors"


PLAIN = {name: [name] for modules in FUSED.values() for name in modules}


@pytest.mark.parametrize(
    ("prefix", "names", "underscores", "table"),
    [
        ("", ("lora_A", "lora_B"), False, FUSED),
        ("diffusion_model.", ("lora_A", "lora_B"), False, FUSED),
        ("base_model.model.", ("lora_A", "lora_B"), False, FUSED),
        ("", ("lora_down", "lora_up"), False, FUSED),
        ("lora_unet_", ("lora_down", "lora_up"), True, FUSED),
        ("transformer.", ("lora_A", "lora_B"), False, PLAIN),
        ("base_model.model.", ("lora_A", "lora_B"), False, PLAIN),
        ("base_model.model.transformer.", ("lora_A.default", "lora_B.default"), False, PLAIN),
        ("transformer.", ("lora_down", "lora_up"), False, PLAIN),
        ("lora_transformer_", ("lora_down", "lora_up"), True, PLAIN),
    ],
)
@pytest.mark.parametrize("alpha", [None, 16.0])
def test_every_naming_changes_the_weights_by_alpha_over_r_b_a(pipeline, prefix, names, underscores, table, alpha):
    state, deltas = written(pipeline, prefix, names, alpha, underscores, table)
    assert_same(applied(pipeline, state), deltas)


def test_final_modulation_of_bfl_has_its_halves_the_other_way_round(pipeline):
    state, deltas = written(pipeline, table={"final_layer.adaLN_modulation.1": ["norm_out.linear"]})
    (delta,) = deltas.values()
    assert_same(applied(pipeline, state), {"norm_out.linear": torch.cat(delta.chunk(2)[::-1])})


@pytest.mark.parametrize("rslora", [False, True])
def test_config_beside_the_file_gives_alpha(pipeline, tmp_path, rslora):
    state, deltas = written(pipeline, "base_model.model.", table=PLAIN)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "use_rslora": rslora,
              "alpha_pattern": {"proj_mlp": 2, "transformer_blocks.0.attn.to_q": 6}}  # fmt: skip
    found = applied(pipeline, save(tmp_path, state, config))
    alphas = dict.fromkeys(deltas, 16)
    alphas["single_transformer_blocks.0.proj_mlp"] = 2
    alphas["transformer_blocks.0.attn.to_q"] = alphas["single_transformer_blocks.0.attn.to_q"] = 6
    alphas["single_transformer_blocks.0.attn.to_q"] = 16  # its name has a word before
    divisor = math.sqrt(RANK) if rslora else RANK
    assert_same(found, {name: delta * alphas[name] / divisor for name, delta in deltas.items()})


@pytest.mark.slow
def test_alpha_pattern_may_have_the_prefixes_of_keys(pipeline, tmp_path):
    state, deltas = written(pipeline, "base_model.model.", table=PLAIN)
    name = "transformer_blocks.0.attn.to_q"
    for prefix in ("transformer.", "base_model.model."):
        config = {"r": RANK, "lora_alpha": RANK, "alpha_pattern": {prefix + name: 4 * RANK}}
        assert_same(applied(pipeline, save(tmp_path, state, config)), deltas | {name: 4 * deltas[name]})


def test_scaled_float16_keeps_its_precision_and_its_range(pipeline):
    names = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k")
    state, deltas = {}, {}
    for name, size, alpha in ((names[0], 1e-5, 1 / 64), (names[1], 3000.0, 128.0)):
        A, B = (tensor.half() for tensor in factors(pipeline, [name]))
        A, B = (A / size).clamp(-1e4, 1e4) if size < 1 else A, (B.float() * size).half()
        state |= {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B, f"{name}.alpha": torch.tensor(alpha)}
        deltas[name] = alpha / RANK * B.float() @ A.float()
    for name, delta in applied(pipeline, state).items():
        torch.testing.assert_close(delta.float(), deltas[name], rtol=1e-5, atol=1e-6 * float(deltas[name].abs().max()))


def test_8_bit_floats_are_read(pipeline):
    name = "transformer_blocks.0.attn.to_q"
    A, B = (tensor.to(torch.float8_e4m3fn) for tensor in factors(pipeline, [name]))
    state = {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
    for alpha in (None, 2.0 * RANK):
        more = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
        assert_same(applied(pipeline, state | more), {name: (2 if alpha else 1) * B.float() @ A.float()})
    B[0, 0] = math.nan
    with pytest.raises(AdapterError, match="NaN or infinite"):
        lora.load(pipeline, state)


@pytest.mark.slow
def test_adapter_saved_by_peft_gives_what_peft_computes(tmp_path):
    pipe = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["to_q", "proj_mlp"], rank_pattern={"to_q": 2},
                        alpha_pattern={"to_q": 5}, init_lora_weights=False)  # fmt: skip
    model = get_peft_model(pipe.transformer, config)
    expected = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().clone()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    model.save_pretrained(tmp_path)
    assert_same(applied(DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux"), tmp_path), expected)


def test_ranks_may_differ(pipeline):
    state, deltas = {}, {}
    for rank, name in enumerate(PLAIN, 2):
        A, B = factors(pipeline, [name], rank, rank)
        state |= {f"transformer.{name}.lora_A.weight": A, f"transformer.{name}.lora_B.weight": B}
        deltas[name] = B @ A
    assert_same(applied(pipeline, state), deltas)


KEY = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({KEY.replace("lora_B.weight", "dora_scale"): torch.ones(1)}, r"is a DoRA.*to_q\.dora_scale"),
        ({KEY.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(1)}, r"is a DoRA.*lora_magnitude_vector"),
        ({KEY.replace("lora_B.weight", "lokr_w1"): torch.ones(2, 2)}, r"is a LoKr .*lokr_w1"),
        ({KEY.replace("lora_B.weight", "hada_w1_a"): torch.ones(2, 2)}, r"is a LoHa .*hada_w1_a"),
        ({KEY: torch.full((32, 4), math.nan)}, rf"1 tensors have values that are NaN or infinite \({KEY}\)"),
        ({KEY: torch.full((32, 4), math.inf)}, "NaN or infinite"),
        ({KEY.replace("to_q", "to_x"): torch.ones(32, 4)}, r"1 unexpected keys .*to_x\.lora_B"),
        ({KEY: torch.ones(48, 4)}, rf"{KEY} is 48 × 4, for 32 features"),
        ({KEY: torch.ones(32, 5)}, rf"without two factors of one rank .*{KEY}"),
        ({"base_model.model.strange.lora_A.weight": torch.ones(4, 4)}, r"base_model\.model\.strange\.lora_A\.weight"),
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(4, 32),
          "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(96, 4)}, r"adapts the modules of .* a second time"),
        ({"double_blocks.0.attn.lora_A.weight": torch.ones(4, 32)}, r"unexpected keys .*double_blocks\.0\.attn"),
    ],
)  # fmt: skip
def test_refusals_name_keys_of_the_file_and_the_reason(pipeline, tmp_path, change, message):
    state, _ = written(pipeline, "transformer.", table=PLAIN)
    with pytest.raises(AdapterError, match=message):
        lora.load(pipeline, save(tmp_path, state | change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8, "lora_alpha": 16}, r"rank 4 at .*lora_A\.weight, but its configuration .* says r = 8"),
        ({"r": 4, "use_dora": True}, "use_dora"),
        ({"r": 4, "bias": "all"}, "bias"),
        ({"r": 4, "use_qalora": True}, "use_qalora"),
        *(
            ({"r": 4, "init_lora_weights": init}, rf"init_lora_weights \({init}\)")
            for init in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")
        ),
        ({"peft_type": "LOHA", "r": 4}, "of the kind LOHA"),
        ({"r": 0, "lora_alpha": 4}, "r is 0"),
        ([1], "configuration of .* is damaged"),
    ],
)
def test_configs_that_mean_something_else_are_refused(pipeline, tmp_path, config, message):
    state, _ = written(pipeline, "base_model.model.", table=PLAIN)
    with pytest.raises(AdapterError, match=message):
        lora.load(pipeline, save(tmp_path, state, config))


def stream_state() -> Tensors:
    from safetensors.torch import load_file

    return load_file(GOLDEN / "adapters" / "rgb_to_depth" / "rgb" / "pytorch_lora_weights.safetensors")


def test_stream_adapters_use_the_config_and_refuse_what_is_no_lora(tmp_path):
    shapes = stream_adapters.targets(json.loads((GOLDEN / "tiny-flux" / "transformer" / "config.json").read_text()))
    state = stream_state()
    plain = stream_adapters.read(save(tmp_path, state), shapes)
    scaled = stream_adapters.read(save(tmp_path, state, {"r": plain.rank, "lora_alpha": 4 * plain.rank}), shapes)
    for name, (A, B) in plain.layers.items():
        torch.testing.assert_close(scaled.layers[name][0], A)
        torch.testing.assert_close(scaled.layers[name][1], 4 * B)
    without_rank = stream_adapters.read(save(tmp_path, state, {"lora_alpha": 4 * plain.rank}), shapes)
    for name, (_, B) in plain.layers.items():
        torch.testing.assert_close(without_rank.layers[name][1], 4 * B)
    with pytest.raises(AdapterError, match=r"init_lora_weights \(olora\)"):
        stream_adapters.read(save(tmp_path, state, {"r": plain.rank, "init_lora_weights": "olora"}), shapes)
    (tmp_path / "adapter_config.json").unlink()
    for change, message in (
        ({KEY: torch.full_like(state[KEY], math.nan)}, "NaN or infinite"),
        ({KEY.replace("lora_B.weight", "dora_scale"): torch.ones(1)}, r"a DoRA.*to_q\.dora_scale"),
    ):
        with pytest.raises(AdapterError, match=message):
            stream_adapters.read(save(tmp_path, state | change), shapes)
