"""Stable Diffusion 2.1 in the layouts that users have, and what is not that model."""

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from panoform.backend.models.sd21 import checkpoints, single_file
from panoform.shared.protocol.errors import WeightsError
from panoform.shared.weights import WEIGHTS

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_sd21, tmp_path):
    """Return a copy of `tiny_sd21` that tests may damage."""
    return shutil.copytree(tiny_sd21, tmp_path / "sd21")


def equal_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_folder_is_loaded_whole(tiny_sd21, reporter):
    pipe = checkpoints.load(checkpoints.inspect(tiny_sd21), torch.float32, reporter)
    assert equal_weights(pipe.unet, UNet2DConditionModel.from_pretrained(tiny_sd21 / "unet"))
    assert equal_weights(pipe.vae, AutoencoderKL.from_pretrained(tiny_sd21 / "vae"))
    assert equal_weights(pipe.text_encoder, CLIPTextModel.from_pretrained(tiny_sd21 / "text_encoder"))
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.scheduler.config.prediction_type == "epsilon"


@pytest.mark.slow
def test_folder_of_half_precision_files(copy, reporter):
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        file = copy / f"{name}.safetensors"
        save_file({key: tensor.half() for key, tensor in load_file(file).items()}, copy / f"{name}.fp16.safetensors")
        file.unlink()
    base = checkpoints.inspect(copy)
    assert base.unet.dtypes == ["F16"]
    pipe = checkpoints.load(base, torch.float16, reporter)
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float16}


def test_model_in_the_models_folder_is_found(tiny_sd21, reporter, user_folders):
    shutil.copytree(tiny_sd21, user_folders / "models" / WEIGHTS["sd21"].folder)
    path, _, pinned = checkpoints.locate(None, reporter)
    assert path == user_folders / "models" / WEIGHTS["sd21"].folder
    assert pinned is None
    with pytest.raises(WeightsError, match=r"no folder or file nowhere\.safetensors"):
        checkpoints.locate("nowhere.safetensors", reporter)


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline, not a Stable"),
        ("unet/config.json", {"use_linear_projection": False}, "Stable Diffusion 1, not 2.1"),
        ("unet/config.json", {"in_channels": 9}, r"takes 9 channels \(conv_in\)"),
        ("unet/config.json", {"cross_attention_dim": 40}, r"of another shape \(down_blocks.0"),
        ("unet/config.json", {"block_out_channels": "wide"}, "No UNet2DConditionModel can be made"),
    ],
)
def test_other_models_are_refused(copy, file, changes, message):
    edit_json(copy / file, **changes)
    with pytest.raises(WeightsError, match=message):
        checkpoints.inspect(copy)


@pytest.mark.slow
def test_missing_tensors_are_named(copy, reporter):
    state = load_file(copy / UNET)
    save_file({key: value for key, value in state.items() if key != "conv_in.bias"} | {"x": torch.ones(1)}, copy / UNET)
    with pytest.raises(WeightsError, match=r"1 tensors missing \(conv_in.bias\); 1 tensors unexpected \(x\)"):
        checkpoints.inspect(copy)
    save_file(state, copy / UNET)
    file = copy / "text_encoder/model.safetensors"
    encoder = load_file(file)
    save_file({key: value for key, value in encoder.items() if "layers.1.mlp.fc1.bias" not in key}, file)
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(.*layers\.1\.mlp\.fc1\.bias"):
        checkpoints.load(checkpoints.inspect(copy), torch.float32, reporter)
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="is missing"):
        checkpoints.inspect(copy)


# Single files


def ldm_unet(state: dict[str, torch.Tensor], has_attention: tuple[bool, ...]) -> dict[str, torch.Tensor]:
    """Convert diffusers' names of a U-Net with two layers a block to Stability's."""
    inner = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    outer = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip

    def renamed(key: str) -> str:
        for ours, theirs in outer.items():
            if key.startswith(ours + "."):
                return key.replace(ours, theirs)
        if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", key):
            side, block, kind, layer, rest = match.groups()
            number = 3 * int(block) + int(layer) + (side == "down")
            place = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}"
        elif match := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", key):
            return f"input_blocks.{3 * int(match[1]) + 3}.0.op.{match[2]}"
        elif match := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.(.*)", key):
            return f"output_blocks.{3 * int(match[1]) + 2}.{1 + has_attention[-1 - int(match[1])]}.{match[2]}"
        else:
            kind, layer, rest = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key).groups()
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}"
        head, _, tail = rest.partition(".")
        return f"{place}.{inner[head]}.{tail}" if kind == "resnets" else f"{place}.{rest}"

    return {renamed(key): tensor for key, tensor in state.items()}


def open_clip(state: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """Convert the names of a CLIPTextModel to OpenCLIP's, with a block more, which Stable Diffusion doesn't use."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": torch.ones(64, 64),
    }
    for block in range(blocks):
        own, theirs = f"encoder.layers.{min(block, blocks - 2)}", f"transformer.resblocks.{block}"
        for kind in ("weight", "bias"):
            qkv = [state[f"{own}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            result[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(qkv)
            for ours, name in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):  # fmt: skip
                result[f"{theirs}.{name}.{kind}"] = state[f"{own}.{ours}.{kind}"].clone()
    return result


@pytest.fixture(scope="module")
def networks():
    """Return small networks with Stable Diffusion 2's head width and groups."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(64, 64), layers_per_block=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=(1, 1), cross_attention_dim=64,
        use_linear_projection=True,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    )  # fmt: skip
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=190, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1,
            hidden_act="gelu", projection_dim=512, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
    )  # fmt: skip
    return unet, vae, clip


def single(networks, ldm_vae) -> dict[str, torch.Tensor]:
    unet, vae, clip = networks
    named = {
        single_file.UNET_PREFIX: ldm_unet(unet.state_dict(), (True, False)),
        single_file.VAE_PREFIX: ldm_vae(vae.state_dict()),
        single_file.TEXT_PREFIX: open_clip(clip.state_dict(), 3),
    }
    return {prefix + key: tensor.contiguous() for prefix, state in named.items() for key, tensor in state.items()} | {
        "model_ema.decay": torch.ones(1)
    }


@pytest.mark.slow
def test_single_file_is_converted(networks, ldm_vae_names, tiny_sd21, tmp_path, reporter):
    file = tmp_path / "v2-1_512-ema-pruned.safetensors"
    save_file(single(networks, ldm_vae_names), file)
    shutil.copytree(tiny_sd21 / "tokenizer", tmp_path / "tokenizer")
    base = checkpoints.inspect(file)
    pipe = checkpoints.load(base, torch.float32, reporter)
    for ours, expected in zip((pipe.unet, pipe.vae, pipe.text_encoder), networks, strict=True):
        assert equal_weights(ours, expected), type(expected).__name__
    assert pipe.unet.config.attention_head_dim == (1, 1)
    assert pipe.vae.config.scaling_factor == 0.18215
    reference = PNDMScheduler.from_pretrained(tiny_sd21 / "scheduler")
    torch.testing.assert_close(pipe.scheduler.alphas_cumprod, reference.alphas_cumprod)
    assert single_file.scheduler_config(file)["prediction_type"] == "epsilon"
    assert single_file.scheduler_config(tmp_path / "v2-1_768.safetensors")["prediction_type"] == "v_prediction"


def test_single_files_of_other_models_are_refused(networks, ldm_vae_names, tmp_path):
    file, whole = tmp_path / "model.safetensors", single(networks, ldm_vae_names)
    for prefix, message in (
        (single_file.UNET_PREFIX, r"not Stable Diffusion 2: it has no input_blocks\.0\.0\.weight"),
        (single_file.VAE_PREFIX, r"it has no encoder\.down\.0"),
    ):
        save_file({key: tensor for key, tensor in whole.items() if not key.startswith(prefix)}, file)
        with pytest.raises(WeightsError, match=message):
            checkpoints.inspect(file)
    convolutions = {
        key: tensor[..., None, None].contiguous() if re.search(r"\.proj_(in|out)\.weight", key) else tensor
        for key, tensor in whole.items()
    }
    save_file(convolutions, file)
    with pytest.raises(WeightsError, match="Stable Diffusion 1"):
        checkpoints.inspect(file)
    with pytest.raises(WeightsError, match="safetensors file"):
        checkpoints.inspect(shutil.copy(file, tmp_path / "m.ckpt"))
