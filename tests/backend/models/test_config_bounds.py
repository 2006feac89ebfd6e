"""Configurations are bounded before anything is built from them."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import T5TokenizerFast

from panoform.backend.models import config_bounds, parts
from panoform.backend.models.flux import checkpoints
from panoform.shared.protocol.errors import WeightsError

TINY = Path(__file__).parents[2] / "golden" / "tiny-flux"
REAL = [
    {"_class_name": "T5EncoderModel", "d_model": 4096, "d_ff": 10240, "num_layers": 24, "vocab_size": 32128},
    {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 49408, "num_layers": 24},
    {"num_train_timesteps": 1000, "trained_betas": None, "beta_start": 0.00085, "max_image_seq_len": 4096},
]


@pytest.mark.parametrize("cls", [FluxTransformer2DModel, AutoencoderKL, UNet2DConditionModel])
def test_real_configurations_are_within(cls):
    with torch.device("meta"):
        config = dict(cls().config)
    config_bounds.check(config, "a", "b")


@pytest.mark.parametrize("config", REAL)
def test_those_of_text_encoders_are_within(config):
    config_bounds.check(config, "a", "b")


def changed(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


CASES = {
    "layers": lambda folder: changed(folder, "transformer/config.json", num_layers=20_000),
    "single layers": lambda folder: changed(folder, "transformer/config.json", num_single_layers=10**12),
    "negative": lambda folder: changed(folder, "transformer/config.json", num_layers=-1),
    "width": lambda folder: changed(folder, "transformer/config.json", attention_head_dim=2**40),
    "axes": lambda folder: changed(folder, "transformer/config.json", axes_dims_rope=[8] * 100_000),
    "blocks": lambda folder: changed(folder, "vae/config.json", block_out_channels=[32] * 1000),
    "layers in blocks": lambda folder: changed(folder, "vae/config.json", layers_per_block=200),
    "no blocks": lambda folder: changed(folder, "vae/config.json", block_out_channels=[]),
    "number": lambda folder: changed(folder, "vae/config.json", scaling_factor=1e300),
    "nested": lambda folder: changed(folder, "vae/config.json", other=[[[[[[[[[[[[1]]]]]]]]]]]]),
    "deep": lambda folder: (folder / "vae" / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "empty": lambda folder: (folder / "vae" / "config.json").write_text("{}"),
    "list": lambda folder: (folder / "vae" / "config.json").write_text("[]"),
    "UTF-16": lambda folder: (folder / "vae" / "config.json").write_text("{}", "utf-16"),
    "not UTF-8": lambda folder: (folder / "vae" / "config.json").write_bytes(b'{"\xff": 1}'),
    "no shards": lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {}}'
    ),
    "other folders": lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../../other.safetensors"}}'
    ),
    "scheduler": lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text(
        '{"num_train_timesteps": 1000000000000}'
    ),
    "equal lengths": lambda folder: changed(
        folder, "scheduler/scheduler_config.json", base_image_seq_len=256, max_image_seq_len=256
    ),
    "no length": lambda folder: changed(folder, "scheduler/scheduler_config.json", max_image_seq_len=None),
    "no axes": lambda folder: changed(folder, "transformer/config.json", axes_dims_rope=[]),
    "other axes": lambda folder: changed(folder, "transformer/config.json", axes_dims_rope=[16, 56, 54]),
    "odd axes": lambda folder: changed(folder, "transformer/config.json", axes_dims_rope=[17, 55, 56]),
    "scale": lambda folder: changed(folder, "vae/config.json", scaling_factor=0),
    "no shift": lambda folder: changed(folder, "vae/config.json", shift_factor=None),
    "index": lambda folder: (folder / "model_index.json").write_text("{}"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_no_model_has_is_refused_at_once(tmp_path, name):
    folder = tmp_path / "FLUX"
    shutil.copytree(TINY, folder)
    CASES[name](folder)
    began = time.process_time()
    with pytest.raises(WeightsError) as caught:
        checkpoints.inspect(folder)
    assert caught.value.hint
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    ['{"turns": 1000000000}', '{"height": 1000000}', '{"num_inference_steps": 0}', "{}", "\ufeff[]", "{" * 99_999],
)
def test_settings_beside_a_model_are_bounded(tmp_path, text):
    whole = json.loads((checkpoints.STARTER / "panoform.json").read_text())
    if text.startswith('{"'):
        text = json.dumps(whole | json.loads(text))
    (tmp_path / "panoform.json").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match=r"panoform\.json can't be read"):
        checkpoints._model_config(tmp_path)


def test_configurations_that_libraries_read_are_checked(tmp_path):
    for part, values in (("text_encoder", {"num_hidden_layers": 20_000}), ("text_encoder_2", {"d_model": 2**31})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(values))
        with pytest.raises(WeightsError, match="No model can be made from"):
            config_bounds.check_folder(tmp_path, "hint")
        (tmp_path / part / "config.json").unlink()


def test_tokenizers_are_within_bounds_of_their_own(tmp_path):
    """FLUX's T5 has 100 additional tokens; transformers writes 1e30 where a length is not limited."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5TokenizerFast(tokenizer_object=Tokenizer(Unigram(vocabulary, unk_id=2)), extra_ids=100)
    tokenizer.save_pretrained(tmp_path / "tokenizer_2")
    file = tmp_path / "tokenizer_2" / "tokenizer_config.json"
    saved = json.loads(file.read_text())
    tokens = {f"<extra_id_{number}>" for number in range(100)}
    assert saved["model_max_length"] > 1e29
    assert tokens <= {token for value in saved.values() if isinstance(value, list) for token in value}
    config_bounds.check_folder(tmp_path, "hint")
    for values in ({"extra_ids": 10**6}, {"additional_special_tokens": ["a"] * 10_000}):
        file.write_text(json.dumps(saved | values))
        with pytest.raises(WeightsError, match="No tokenizer can be made from"):
            config_bounds.check_folder(tmp_path, "hint")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', "utf-8-sig")
    assert parts.read_json(tmp_path / "a.json") == {"a": 1}
