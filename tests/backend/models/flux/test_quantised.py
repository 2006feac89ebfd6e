"""Quantised bases compared with files of the decoded weights, in the exact layouts that users have, at a tiny size."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from panoform.backend.models import bitsandbytes_file, parts, quantised, torchao_file
from panoform.backend.models.flux import checkpoints, single_file
from panoform.backend.models.links import ThreadLink
from panoform.backend.pipelines.omnix import OmniXPipeline
from panoform.shared.protocol.errors import WeightsError

GOLDEN = Path(__file__).parents[3] / "golden" / "bitsandbytes.safetensors"
TORCHAO = GOLDEN.with_name("torchao.safetensors")
QKV = "double_blocks.0.img_attn.qkv"
SPELLINGS = ["scaled_fp8", "input_scale", "comfy_quant"]


def write(folder, states, transformer, metadata=None):
    """Write a single file and its VAE; return the file."""
    save_file({key: tensor.contiguous() for key, tensor in transformer.items()}, folder / "flux.safetensors", metadata)
    save_file(states[1], folder / "ae.safetensors")
    return folder / "flux.safetensors"


def load(file, dtype=torch.float32) -> OmniXPipeline:
    return checkpoints.load(checkpoints.inspect(file), dtype)


def raw(states, dtype):
    """Return every tensor in 8 bit, as flux1-dev-fp8 has them."""
    return {key: tensor.to(dtype) for key, tensor in states[0].items()}


def scaled(states, spelling, per_row, dtype=torch.float8_e4m3fn):
    """Return (the file's state, its metadata, the decoded state), with scales that differ from row to row."""
    state, decoded, layers = {}, {}, {}
    for key, tensor in states[0].items():
        module = key.rpartition(".")[0]
        state[key] = decoded[key] = tensor
        if tensor.ndim != 2:
            continue
        rows = tensor.float().abs().amax(1, keepdim=True)
        # Much larger from row to row, so that a scale of another row is noticed.
        rows *= torch.logspace(0, 2, len(rows))[:, None]
        limit = 448 if dtype.is_floating_point else 127
        scale = rows / limit if per_row else rows.max() / limit
        state[key] = (tensor.float() / scale if dtype.is_floating_point else (tensor.float() / scale).round()).to(dtype)
        decoded[key] = state[key].float() * scale
        name = "scale_weight" if spelling == "scaled_fp8" else "weight_scale"
        state[f"{module}.{name}"] = scale.flatten() if spelling == "comfy_quant" and per_row else scale
        text = {"format": "float8_e4m3fn" if dtype.is_floating_point else "int8_tensorwise"}
        if spelling == "comfy_quant":
            state[f"{module}.comfy_quant"] = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
        else:
            state[f"{module}.{'scale_input' if spelling == 'scaled_fp8' else 'input_scale'}"] = torch.tensor(3.0)
        layers[module] = text
    if spelling == "scaled_fp8":
        state["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return state, metadata if spelling == "input_scale" else None, decoded


def assert_equal(loaded, reference, rtol=0.0):
    """Assert that both transformers have the same weights, decoded."""
    linears = {name: module for name, module in loaded.named_modules() if isinstance(module, torch.nn.Linear)}
    kept = [name for name, module in linears.items() if isinstance(module, quantised.QuantisedLinear)]
    assert kept
    for name in kept:
        expected = reference.get_submodule(name).weight
        torch.testing.assert_close(linears[name].decoded(torch.float32), expected, rtol=rtol, atol=0)
    decoded = {f"{name}.{kind}" for name in kept for kind in ("weight", "weight_scale")}
    others = {key: tensor for key, tensor in loaded.state_dict().items() if key not in decoded}
    expected = {key: tensor for key, tensor in reference.state_dict().items() if key not in decoded}
    assert others.keys() == expected.keys()
    assert all(torch.equal(others[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float8_e4m3fn, "all in one file"), (torch.float8_e5m2, "flux1-dev-fp8 and ae beside it")],
)
def test_raw_float8_stays_in_8_bit(tiny_states, tmp_path, dtype, layout):
    state = raw(tiny_states, dtype)
    if layout == "all in one file":
        state = {single_file.TRANSFORMER_PREFIX + key: value for key, value in state.items()}
        state |= {"vae." + key: value for key, value in tiny_states[1].items()} | {"text_encoders.x": torch.zeros(1)}
    file = write(tmp_path, tiny_states, state)
    base = checkpoints.inspect(file)
    pipeline = checkpoints.load(base, torch.bfloat16)
    memory = sum(tensor.nbytes for tensor in pipeline.transformer.state_dict().values())
    assert memory == base.transformer.bytes_in(torch.bfloat16)
    assert memory <= 1.02 * sum(tensor.nbytes for tensor in raw(tiny_states, dtype).values())
    assert pipeline.compute_dtype == torch.bfloat16
    (tmp_path / "reference").mkdir()
    decoded = {key: tensor.to(dtype).float() for key, tensor in tiny_states[0].items()}
    assert_equal(load(file).transformer, load(write(tmp_path / "reference", tiny_states, decoded)).transformer)


@pytest.mark.slow
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [*((spelling, torch.float8_e4m3fn) for spelling in SPELLINGS), ("comfy_quant", torch.int8)],
)
def test_every_spelling_of_scales_equals_the_decoded_weights(tiny_states, tmp_path, spelling, dtype, per_row):
    state, metadata, decoded = scaled(tiny_states, spelling, per_row, dtype)
    (tmp_path / "reference").mkdir()
    file = write(tmp_path, tiny_states, state, metadata)
    loaded = load(file).transformer
    memory = sum(tensor.nbytes for tensor in loaded.state_dict().values())
    assert memory == checkpoints.inspect(file).transformer.bytes_in(torch.float32)
    assert_equal(loaded, load(write(tmp_path / "reference", tiny_states, decoded)).transformer)


@pytest.mark.slow
def test_decoding_in_parts_changes_nothing(tiny_states, tmp_path, monkeypatch):
    state, _, _ = scaled(tiny_states, "scaled_fp8", True)
    linear = load(write(tmp_path, tiny_states, state)).transformer.single_transformer_blocks[0].proj_mlp
    whole = linear.decoded(torch.bfloat16)
    monkeypatch.setattr(quantised, "_CHUNK", 5 * linear.in_features)
    assert torch.equal(linear.decoded(torch.bfloat16), whole)


def test_float8_folder_stays_in_8_bit(tiny_flux, tmp_path):
    folder = shutil.copytree(tiny_flux, tmp_path / "float8")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(file).items()}
    save_file(state, file)
    linear = load(folder).transformer.transformer_blocks[1].ff.net[2]
    assert torch.equal(linear.decoded(torch.float32), state["transformer_blocks.1.ff.net.2.weight"].float())


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "share"), [("int8", 0.6), ("nf4", 0.4)])
def test_rounding_at_loading_keeps_what_is_quantised(tiny_flux, tiny_states, tmp_path, dtype, share):
    base = checkpoints.inspect(tiny_flux, dtype=dtype)
    transformer, plain = checkpoints.load(base, torch.bfloat16).transformer, load(tiny_flux).transformer
    memory = sum(tensor.nbytes for tensor in transformer.state_dict().values())
    unrounded = checkpoints.inspect(tiny_flux).transformer.bytes_in(torch.bfloat16)
    assert memory == base.transformer.bytes_in(torch.bfloat16) < share * unrounded
    for name, linear in transformer.named_modules():
        assert isinstance(linear, quantised.QuantisedLinear) == ("blocks." in name and hasattr(linear, "in_features"))
        if isinstance(linear, quantised.QuantisedLinear):
            weight = plain.get_submodule(name).weight
            blocks = weight if dtype == "int8" else weight.unflatten(1, (-1, 64))
            # Half of the widest step: 1 / 127, and 1 - 0.696 between the first two of nf4's values.
            half_step = blocks.abs().amax(-1, keepdim=True) * (1 / 127 if dtype == "int8" else 0.304) / 2
            error = (linear.decoded(torch.float32) - weight).view(blocks.shape)
            assert (error.abs() <= 1.001 * half_step).all()
    state, _, _ = scaled(tiny_states, "comfy_quant", True)
    loaded = checkpoints.load(checkpoints.inspect(write(tmp_path, tiny_states, state), dtype=dtype), torch.bfloat16)
    assert loaded.transformer.transformer_blocks[0].attn.to_q.storage == "F8_E4M3"


# In use


@pytest.fixture
def pair(tiny_states, tmp_path):
    """Return pipelines of a scaled base and of its decoded weights."""
    state, _, decoded = scaled(tiny_states, "comfy_quant", True)
    (tmp_path / "reference").mkdir()
    return (
        load(write(tmp_path, tiny_states, state), torch.bfloat16),
        load(write(tmp_path / "reference", tiny_states, decoded), torch.bfloat16),
    )


def arguments():
    generator = torch.Generator().manual_seed(0)
    return {
        "conditions": {"rgb": torch.rand(1, 3, 64, 128, generator=generator) * 2 - 1},
        "prompt_embeds": torch.randn(1, 8, 32, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 32, generator=generator),
        "latents": torch.randn(1, 16, 8, 16, generator=generator),
        "num_inference_steps": 2,
        "output_type": "latent",
    }


@pytest.mark.slow
def test_adapters_streaming_and_loras_work_with_a_quantised_base(pair, tiny_adapters, tiny_lora):
    results = []
    for pipe in pair:
        pipe.load_adapters(tiny_adapters, "rgb_to_depth")
        assert {factor.dtype for factors in pipe.resident["rgb_to_depth"].values() for factor in factors} == {
            torch.bfloat16
        }
        streams = pipe("rgb_to_depth", **arguments()).images
        pipe.load_lora_weights(tiny_lora)
        both = pipe("rgb_to_depth", **arguments() | {"num_inference_steps": 1}).images
        pipe.unload_lora_weights()
        pipe.stream(ThreadLink(), resident=False)
        assert torch.equal(pipe("rgb_to_depth", **arguments()).images, streams)
        results.append((streams, both))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)
    assert not torch.equal(results[0][0], results[0][1])


@pytest.mark.slow
def test_tasks_of_one_pass_share_what_is_decoded(pair, tiny_adapters, monkeypatch):
    """Each weight of a block is decoded once a step, however many tasks there are, with the same results."""
    pipe, tasks = pair[0], ["rgb_to_depth", "rgb_to_normal", "rgb_to_albedo"]
    for task in tasks:
        pipe.load_adapters(tiny_adapters, task)
    one = arguments()
    apart = torch.cat([pipe(task, **one).images for task in tasks])
    count, decoded = [], quantised.QuantisedLinear.decoded
    monkeypatch.setattr(quantised.QuantisedLinear, "decoded", lambda *args: count.append(args[0]) or decoded(*args))
    together = pipe(tasks, **one | {"latents": one["latents"].expand(3, -1, -1, -1)}).images
    assert torch.equal(together, apart)
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    linears = {id(x) for b in blocks for n, x in b.named_modules() if hasattr(x, "storage") and "norm" not in n}
    assert sum(id(linear) in linears for linear in count) == len(linears) * one["num_inference_steps"]
    assert not any(x._kept is not None for x in count)


@pytest.mark.parametrize("name", ["int8", "int8_groups", "float8"])
def test_weights_are_decoded_as_by_torchao(name):
    """The golden file was written by torchao 0.18.0, with what it decodes to float32."""
    header = torchao_file.header([TORCHAO], parts.read_header(TORCHAO), "")
    storage, (rows, columns) = header[f"{name}.weight"]
    tensors = dict(torchao_file.read(header, TORCHAO, {f"{name}.weight", f"{name}.weight_scale"}))
    scale = tensors[f"{name}.weight_scale"]
    assert scale.shape == header[f"{name}.weight_scale"][1]
    linear = quantised.QuantisedLinear(columns, rows, bias=False, storage=storage, scales=scale.shape[1])
    linear.load_state_dict(
        {"weight": tensors[f"{name}.weight"].view(torch.uint8), "weight_scale": scale}, assign=True
    )  # fmt: skip
    expected = load_file(TORCHAO)[f"{name}.decoded"]
    torch.testing.assert_close(linear.decoded(torch.float32), expected, rtol=1e-6, atol=0)


def in_torchao(state: dict, dtype: torch.dtype, scales: int = 1) -> tuple[dict, dict]:
    """Return every matrix as torchao stores it in diffusers folders, and the decoded state."""
    stored, decoded, limit = {}, {}, 448 if dtype.is_floating_point else 127
    for key, tensor in state.items():
        stored[key] = decoded[key] = tensor
        if tensor.ndim == 2:
            module = key.removesuffix(".weight")
            groups = tensor.float().unflatten(1, (scales, -1))
            scale = groups.abs().amax(2, keepdim=True) / limit
            number = groups / scale if dtype.is_floating_point else (groups / scale).round()
            del stored[key]
            stored[f"{module}._weight_qdata"] = number.to(dtype).flatten(1)
            stored[f"{module}._weight_scale"] = scale[:, :, 0].clone()
            stored[f"{module}._weight_zero_point"] = torch.zeros(len(tensor), scales, dtype=torch.int8)
            decoded[key] = (number.to(dtype).float() * scale).flatten(1)
    return stored, decoded


def torchao_folder(tiny_flux: Path, folder: Path, stored: dict) -> Path:
    shutil.copytree(tiny_flux, folder)
    save_file(stored, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    file = folder / "transformer" / "config.json"
    quantisation = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantisation}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "scales"), [(torch.int8, 1), (torch.int8, 2), (torch.float8_e4m3fn, 1)])
def test_torchao_folder_equals_the_decoded_weights(tiny_flux, tmp_path, dtype, scales):
    weights = "transformer/diffusion_pytorch_model.safetensors"
    stored, decoded = in_torchao(load_file(tiny_flux / weights), dtype, scales)
    folder = torchao_folder(tiny_flux, tmp_path / "torchao", stored)
    reference = shutil.copytree(tiny_flux, tmp_path / "decoded")
    save_file(decoded, reference / weights)
    loaded = load(folder).transformer
    assert_equal(loaded, load(reference).transformer, rtol=1e-6)
    memory = sum(tensor.nbytes for tensor in loaded.state_dict().values())
    assert memory == checkpoints.inspect(folder).transformer.bytes_in(torch.float32)


def test_torchao_folder_may_end_a_shard_between_a_weight_and_its_scale(tiny_flux, tmp_path):
    """The sorted tensors are cut there, as one file for all before and one for the others."""
    stored, _ = in_torchao(load_file(tiny_flux / "transformer/diffusion_pytorch_model.safetensors"), torch.int8)
    stored["x_embedder._weight_scale"] = stored["x_embedder._weight_scale"][:1]  # one for all rows
    whole = torchao_folder(tiny_flux, tmp_path / "whole", stored)
    folder = torchao_folder(tiny_flux, tmp_path / "shards", stored) / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(stored)
    cut = names.index("x_embedder._weight_scale")
    assert names[cut - 1] == "x_embedder._weight_qdata"
    files = {}
    for number, part in enumerate((names[:cut], names[cut:]), 1):
        name = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({key: stored[key] for key in part}, folder / name)
        files |= dict.fromkeys(part, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    found, expected = (
        parts.load(parts.part_of_folder(path, FluxTransformer2DModel), torch.float32).state_dict()
        for path in (folder, whole / "transformer")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("ending", "tensor", "words"),
    [
        ("qdata", torch.zeros(128, 16, dtype=torch.uint8), "by torchao as U8, which isn't read"),
        ("scale", torch.ones(5, 1), r"damaged: the scale of x_embedder is F32 of shape \(5, 1\)"),
        ("zero_point", torch.ones(128, 1, dtype=torch.int8), "by torchao asymmetrically"),
    ],
)
def test_other_formats_of_torchao_are_refused(tiny_flux, tmp_path, ending, tensor, words):
    stored, _ = in_torchao(load_file(tiny_flux / "transformer/diffusion_pytorch_model.safetensors"), torch.int8)
    folder = torchao_folder(tiny_flux, tmp_path / "torchao", stored | {f"x_embedder._weight_{ending}": tensor})
    assert "GGUF" in assert_rejected(folder, words).hint


# Refusals


def assert_rejected(file, words):
    with pytest.raises(WeightsError, match=words) as caught:
        checkpoints.inspect(file)
    assert "Download it again" not in caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{QKV}.scale_weight": None}, f"1 of its 8-bit weights have no scale \\({QKV}.weight"),
        ({f"{QKV}.scale_weight": torch.ones(100)}, r"of shape \(100,\), not one number, nor one for each of its 384"),
        ({f"{QKV}.scale_weight": torch.ones(3, 1)}, "not one number"),
        ({f"{QKV}.scale_weight": torch.ones(384, dtype=torch.uint8)}, "is U8 of shape"),
        ({f"{QKV}.weight": torch.ones(384, 128)}, f"scale for {QKV}.weight, which is F32"),
        ({"other.scale_weight": torch.ones(1)}, "scale for other.weight, which is missing"),
    ],
)
def test_invalid_scales_are_refused(tiny_states, tmp_path, changes, words):
    state, _, _ = scaled(tiny_states, "scaled_fp8", False)
    state = {key: tensor for key, tensor in (state | changes).items() if tensor is not None}
    assert "flux1-dev-fp8" in assert_rejected(write(tmp_path, tiny_states, state), words).hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "nvfp4"}, "quantised as nvfp4"),
        ({"format": "mxfp8"}, "quantised as mxfp8"),
        ({"format": "int8_tensorwise", "convrot": True}, r"int8_tensorwise, rotated \(ConvRot\)"),
        (None, "quantisation can't be read"),
    ],
)
@pytest.mark.parametrize("spelling", ["comfy_quant", "input_scale"])
def test_other_formats_are_refused(tiny_states, tmp_path, settings, words, spelling):
    state, metadata, _ = scaled(tiny_states, spelling, False)
    if metadata:
        metadata["_quantization_metadata"] = json.dumps({"layers": {QKV: settings}})
    else:
        marker = bytearray(json.dumps(settings).encode())
        state[f"{QKV}.comfy_quant"] = torch.frombuffer(marker, dtype=torch.uint8)
    assert_rejected(write(tmp_path, tiny_states, state, metadata), words)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (("transformer_blocks.0.qkv_proj.qweight", "transformer_blocks.0.qkv_proj.wscales"), "by Nunchaku"),
        ((f"{QKV}.weight", f"{QKV}.weight.quant_state.bitsandbytes__fp4"), r"by bitsandbytes \(fp4\)"),
        ((f"{QKV}.weight", f"{QKV}.weight_scale", f"{QKV}.weight_scale_2"), "as NVFP4"),
        (("transformer_blocks.0.attn.to_q.weight._data",), "by Quanto"),
        ((f"{QKV}.qweight", f"{QKV}.qzeros"), "by GPTQ or AWQ"),
    ],
)
def test_other_quantisations_are_named(tmp_path, tensors, words):
    save_file({key: torch.zeros(4, 4, dtype=torch.uint8) for key in tensors}, tmp_path / "flux.safetensors")
    assert "flux1-dev-fp8" in assert_rejected(tmp_path / "flux.safetensors", words).hint


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integers_without_scales_are_refused(tiny_states, tmp_path, dtype):
    state = {key: (tensor * 100).to(dtype) if tensor.ndim == 2 else tensor for key, tensor in tiny_states[0].items()}
    assert_rejected(write(tmp_path, tiny_states, state), "integers without scales")


def test_quantised_folder_is_refused_by_its_method(tiny_flux, tmp_path):
    folder = shutil.copytree(tiny_flux, tmp_path / "nf4")
    file = folder / "transformer" / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "quanto", "weights_dtype": "int8"}}
    file.write_text(json.dumps(config))
    assert_rejected(folder, "quantised by quanto")


def test_file_cut_short_is_refused_with_its_size(tiny_states, tmp_path):
    file = write(tmp_path, tiny_states, tiny_states[0])
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert_rejected(file, f"has {len(data) // 2:,} of {len(data):,} bytes")


# GGUF


def write_gguf(folder, states, types, architecture="flux"):
    """Write a GGUF file with the tensors' types in `types` (others: F32) and its VAE; return both states."""
    writer = gguf.GGUFWriter(folder / "flux.gguf", architecture)
    decoded = {}
    for key, tensor in states[0].items():
        values, kind = tensor.float().numpy(), gguf.GGMLQuantizationType[types.get(key, "F32")]
        data = gguf.quants.quantize(values, kind)
        decoded[key] = torch.from_numpy(gguf.quants.dequantize(data, kind).reshape(values.shape).copy())
        writer.add_tensor(key, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(states[1], folder / "ae.safetensors")
    return folder / "flux.gguf", decoded


#: Bytes of a block at which its float16 scales are, for types that the library decodes but doesn't write.
SCALES_AT = {
    "Q6_K": (208,), "Q5_K": (0, 2), "Q4_K": (0, 2), "Q3_K": (108,), "Q2_K": (80, 82), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("Q8_0",), ("Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16")])
def test_gguf_equals_the_decoded_weights(tiny_states, tiny_adapters, tmp_path, kinds):
    """By numpy's decoding in the library of llama.cpp; the streams' results by 5e-5. Files mix types."""
    matrices = [key for key, tensor in tiny_states[0].items() if tensor.ndim == 2]
    types = {key: kinds[i % len(kinds)] for i, key in enumerate(matrices)}
    file, decoded = write_gguf(tmp_path, tiny_states, types)
    (tmp_path / "reference").mkdir()
    ours, reference = load(file), load(write(tmp_path / "reference", tiny_states, decoded))
    weights = {name: module for name, module in ours.transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, linear in weights.items():
        weight = linear.decoded(torch.float32) if isinstance(linear, quantised.QuantisedLinear) else linear.weight
        expected = reference.transformer.get_submodule(name).weight
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-7)
    results = []
    for pipe in (ours, reference):
        pipe.load_adapters(tiny_adapters, "rgb_to_depth")
        results.append(pipe("rgb_to_depth", **arguments()).images)
    assert (results[0] - results[1]).norm() <= 5e-5 * results[1].norm()


@pytest.mark.parametrize("kind", sorted(SCALES_AT))
def test_gguf_types_are_decoded_as_by_llama_cpp(kind):
    """Those whose blocks are too long for the tiny model."""
    generator = np.random.default_rng(0)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = generator.integers(0, 256, (3, 2, size), dtype=np.uint8)
    for offset in SCALES_AT[kind]:
        data[..., offset : offset + 2] = generator.uniform(0.1, 1, (3, 2, 1)).astype(np.float16).view(np.uint8)
    data = data.reshape(3, -1)
    linear = quantised.QuantisedLinear(2 * block, 3, bias=False, storage=kind)
    linear.load_state_dict({"weight": torch.from_numpy(data)}, assign=True)
    expected = torch.from_numpy(gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]))
    torch.testing.assert_close(linear.decoded(torch.float32), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_gguf_stays_as_small_as_its_file(tiny_states, tmp_path):
    types = {key: "Q4_0" for key, tensor in tiny_states[0].items() if tensor.ndim == 2}
    file, _ = write_gguf(tmp_path, tiny_states, types)
    base = checkpoints.inspect(file)
    transformer = checkpoints.load(base, torch.bfloat16).transformer
    memory = sum(tensor.nbytes for tensor in transformer.state_dict().values())
    assert memory == base.transformer.bytes_in(torch.bfloat16) < file.stat().st_size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "sd3"}, "is a GGUF file of sd3, not of flux"),
        ({"types": {"img_in.weight": "TQ2_0"}}, "tensors in TQ2_0, which isn't read"),
    ],
)
def test_other_gguf_files_are_refused(tiny_states, tmp_path, change, words):
    states = ({"img_in.weight": torch.zeros(256, 256)}, tiny_states[1])
    assert_rejected(write_gguf(tmp_path, states, **{"types": {}, **change})[0], words)


@pytest.mark.parametrize("size", [3, 20, 1000, -1000])
def test_gguf_cut_short_is_refused(tiny_states, tmp_path, size):
    file, _ = write_gguf(tmp_path, tiny_states, {})
    file.write_bytes(file.read_bytes()[:size])
    assert_rejected(file, "is no GGUF file, or incomplete")


# bitsandbytes


def in_bitsandbytes(state, kind):
    """Return (a state as bitsandbytes stores it, the decoded state): nf4 by search for the nearest value."""
    values = load_file(GOLDEN)["plain.weight.quant_map"]
    stored, decoded = {}, {}
    for key, tensor in state.items():
        if tensor.ndim != 2 or tensor.shape[1] % 64 or "blocks." not in key:
            stored[key] = decoded[key] = tensor
        elif kind == "int8":
            scale = tensor.float().abs().amax(1)
            stored[key] = (tensor.float() / scale[:, None] * 127).round().to(torch.int8)
            stored[key.removesuffix("weight") + "SCB"] = scale
            stored[key.removesuffix("weight") + "weight_format"] = torch.tensor(0, dtype=torch.uint8)
            decoded[key] = stored[key].float() * (scale[:, None] / 127)
        else:
            blocks = tensor.float().reshape(-1, 64)
            absmax = blocks.abs().amax(1)
            numbers = (blocks / absmax[:, None])[..., None].sub(values).abs().argmin(-1).flatten().to(torch.uint8)
            stored[key] = (numbers[::2] * 16 + numbers[1::2])[:, None]
            stored |= {f"{key}.absmax": absmax, f"{key}.quant_map": values.clone()}
            text = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(tensor.shape)}
            marker = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
            stored[f"{key}.quant_state.bitsandbytes__nf4"] = marker
            decoded[key] = (values[numbers.int()].reshape(-1, 64) * absmax[:, None]).reshape(tensor.shape)
    return stored, decoded


@pytest.mark.parametrize(("name", "storage"), [("plain", "NF4"), ("nested", "NF4"), ("int8", "I8")])
def test_weights_are_decoded_as_by_bitsandbytes(name, storage):
    """The golden file was written by bitsandbytes 0.50.2, with what it decodes."""
    found = parts.read_header(GOLDEN)
    places = dict.fromkeys(found, GOLDEN)
    header = bitsandbytes_file.header(places, found, "")
    weight = f"{name}.weight"
    assert header[weight][0] == storage
    tensors = dict(bitsandbytes_file.read(places, header, GOLDEN, {weight, f"{weight}_scale"}))
    (rows, columns), scale = header[weight][1], tensors[f"{weight}_scale"]
    assert scale.shape == header[f"{weight}_scale"][1]
    linear = quantised.QuantisedLinear(columns, rows, bias=False, storage=storage, scales=scale.shape[1])
    linear.load_state_dict({"weight": tensors[weight].view(torch.uint8), "weight_scale": scale}, assign=True)
    expected = load_file(GOLDEN)[f"{name}.decoded"]
    torch.testing.assert_close(linear.decoded(torch.float32), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["plain", "nested", "int8"])
def test_a_weight_and_its_parts_may_be_in_several_files(tmp_path, name):
    """Each tensor of bitsandbytes' own file in a file of its own is read as from the one."""
    found = parts.read_header(GOLDEN)
    places = {key: tmp_path / f"{i}.safetensors" for i, key in enumerate(found)}
    golden = load_file(GOLDEN)
    for key, file in places.items():
        save_file({key: golden[key]}, file)
    one = dict.fromkeys(found, GOLDEN)
    header, names = bitsandbytes_file.header(places, found, ""), {f"{name}.weight", f"{name}.weight_scale"}
    assert header == bitsandbytes_file.header(one, found, "")
    read = [entry for file in places.values() for entry in bitsandbytes_file.read(places, header, file, names)]
    expected = dict(bitsandbytes_file.read(one, header, GOLDEN, names))
    assert len(read) == 2
    assert all(torch.equal(tensor, expected[key]) for key, tensor in read)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_shards_may_end_between_a_weight_and_its_parts(tiny_flux, tmp_path, kind):
    folders = [shutil.copytree(tiny_flux / "transformer", tmp_path / name) for name in ("one file", "shards")]
    file = "diffusion_pytorch_model.safetensors"
    state = load_file(folders[0] / file)
    stored, _ = in_bitsandbytes(state, kind)
    assert len(stored) > len(state)
    save_file(stored, folders[0] / file)
    (folders[1] / file).unlink()
    shards = {key: f"{'weights' if key in state else 'parts'}.safetensors" for key in stored}
    for shard in ("weights.safetensors", "parts.safetensors"):
        save_file({key: tensor for key, tensor in stored.items() if shards[key] == shard}, folders[1] / shard)
    (folders[1] / f"{file}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    one, many = (parts.part_of_folder(folder, FluxTransformer2DModel) for folder in folders)
    parts.check_tensors(many)
    assert many.quantised == [{"nf4": "NF4", "int8": "I8"}[kind]]
    expected, found = (parts.load(part, torch.float32).state_dict() for part in (one, many))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_nf4_is_rounded_as_by_bitsandbytes():
    """To the same numbers and scales, from weights that it decoded: a value is nearest to itself."""
    golden = load_file(GOLDEN)
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(128, 16, bias=False)])})
    network.load_state_dict({"blocks.0.weight": golden["plain.decoded"]})
    quantised.round_linears(network.requires_grad_(False), "NF4")
    linear = network.get_submodule("blocks.0")
    assert torch.equal(linear.weight, golden["plain.weight"].reshape(16, 64))
    torch.testing.assert_close(linear.weight_scale.flatten(), golden["plain.weight.absmax"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layout"), [("nf4", "folder"), ("nf4", "single file"), ("int8", "folder")])
def test_bitsandbytes_equals_the_decoded_weights(tiny_flux, tiny_states, tmp_path, kind, layout):
    (tmp_path / "reference").mkdir()
    if layout == "single file":
        stored, decoded = in_bitsandbytes(tiny_states[0], kind)
        file = write(tmp_path, tiny_states, stored)
        reference = write(tmp_path / "reference", tiny_states, decoded)
    else:
        file, reference = (shutil.copytree(tiny_flux, tmp_path / name) for name in ("quantised", "decoded"))
        weights = "transformer/diffusion_pytorch_model.safetensors"
        stored, decoded = in_bitsandbytes(load_file(file / weights), kind)
        save_file(stored, file / weights)
        save_file(decoded, reference / weights)
        config = json.loads((file / "transformer" / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", f"load_in_{kind[-1]}bit": True}
        (file / "transformer" / "config.json").write_text(json.dumps(config))
    assert_equal(load(file).transformer, load(reference).transformer, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (".absmax", torch.zeros(5), "absmax is missing, or has 5 numbers instead of 768"),
        (".absmax", None, "absmax is missing, or has 0 numbers"),
        (".quant_state.bitsandbytes__nf4", torch.zeros(5, dtype=torch.uint8), "bitsandbytes__nf4 can't be read"),
        ("", torch.zeros(5, 1, dtype=torch.uint8), "has 5 numbers"),
    ],
)
def test_damaged_nf4_is_refused(tiny_states, tmp_path, ending, change, words):
    stored, _ = in_bitsandbytes(tiny_states[0], "nf4")
    stored[f"{QKV}.weight{ending}"] = change
    file = write(tmp_path, tiny_states, {key: tensor for key, tensor in stored.items() if tensor is not None})
    assert_rejected(file, words)
