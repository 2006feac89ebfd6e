import json
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from panoform.backend.models import hub
from panoform.backend.models.flux import checkpoints, single_file, text_encoding
from panoform.shared.engines import EngineSettings
from panoform.shared.protocol.errors import Cancelled, WeightsError

TINY_TRANSFORMER = {
    "in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128, "num_attention_heads": 1,
    "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
TINY_VAE = {
    "block_out_channels": (32,) * 4, "layers_per_block": 2, "latent_channels": 16, "scaling_factor": 0.3611,
    "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False, "norm_num_groups": 32,
}  # fmt: skip
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_flux, tmp_path):
    """Return a copy of `tiny_flux` that tests may damage."""
    return shutil.copytree(tiny_flux, tmp_path / "FLUX.1-dev")


def flux(path, **settings):
    return EngineSettings(engine="flux", model=str(path), **settings)


def load(path, dtype=torch.float32):
    return checkpoints.load(checkpoints.inspect(path), dtype)


def equal_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Locating checkpoints


def test_starter_is_located(reporter):
    found = checkpoints.locate(EngineSettings(), reporter)
    assert (found.name, found.adapters_name) == ("built in", "built in")
    assert found.config.decode.distance.encoding == "log"
    checkpoints.inspect(found.path)


@pytest.mark.slow
def test_flux_is_found_in_the_models_folder(tiny_flux, tiny_adapters, reporter, tmp_path, monkeypatch):
    monkeypatch.setenv("PANOFORM_MODELS", str(tmp_path))
    shutil.copytree(tiny_flux, tmp_path / "FLUX.1-dev")
    shutil.copytree(tiny_adapters, tmp_path / "OmniX")
    found = checkpoints.locate(EngineSettings(engine="flux"), reporter)
    assert found.path == tmp_path / "FLUX.1-dev"
    assert found.adapters == str(tmp_path / "OmniX")
    assert not found.config.reliable_yaw


def test_starter_without_config_is_rejected(tiny_flux, reporter):
    with pytest.raises(WeightsError, match=r"no panoform\.json"):
        checkpoints.locate(EngineSettings(model=str(tiny_flux)), reporter)


def test_missing_folder_is_rejected(reporter, tmp_path):
    with pytest.raises(WeightsError, match="no folder or file"):
        checkpoints.locate(flux(tmp_path / "nowhere"), reporter)


@pytest.mark.parametrize("content", [b'{"name": "x", "colour": "blue"}', b'{"name": "\xff"}'])
def test_invalid_panoform_json_is_rejected(tmp_path, reporter, content):
    (tmp_path / "panoform.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"panoform\.json can't be read"):
        checkpoints.locate(EngineSettings(model=str(tmp_path)), reporter)


# Loading


@pytest.mark.slow
def test_diffusers_folder_loads_the_same_weights_as_diffusers(tiny_flux):
    from diffusers import FluxPipeline

    ours = load(tiny_flux)
    theirs = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    assert equal_weights(ours.transformer, theirs.transformer)
    assert equal_weights(ours.vae, theirs.vae)
    assert dict(ours.scheduler.config) == dict(theirs.scheduler.config)
    assert ours.text_encoder is None


@pytest.mark.slow
def test_sharded_weights_are_merged(tiny_flux, copy):
    from diffusers import FluxTransformer2DModel

    whole = FluxTransformer2DModel.from_pretrained(copy / "transformer")
    shutil.rmtree(copy / "transformer")
    whole.save_pretrained(copy / "transformer", max_shard_size="1MB")
    assert len(list((copy / "transformer").glob("*.safetensors"))) > 1
    assert equal_weights(load(copy).transformer, load(tiny_flux).transformer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_requested_dtype(tiny_flux, dtype):
    pipeline = load(tiny_flux, dtype)
    assert {p.dtype for p in pipeline.transformer.parameters()} == {dtype}
    assert pipeline.vae.dtype == (torch.float32 if dtype == torch.float16 else dtype)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flux1-dev and ae beside it", "all in one file"])
def test_single_file_loads_the_same_weights_as_the_folder(tiny_flux, tiny_states, tmp_path, layout):
    transformer, vae = tiny_states
    if layout == "all in one file":
        state = {single_file.TRANSFORMER_PREFIX + key: value for key, value in transformer.items()}
        state |= {"vae." + key: value for key, value in vae.items()} | {"text_encoders.x": torch.zeros(1)}
        save_file(state, tmp_path / "flux.safetensors")
    else:
        save_file(transformer, tmp_path / "flux.safetensors")
        save_file(vae, tmp_path / "ae.safetensors")
    ours, folder = load(tmp_path / "flux.safetensors"), load(tiny_flux)
    assert equal_weights(ours.transformer, folder.transformer)
    assert equal_weights(ours.vae, folder.vae)
    for name, expected in (("transformer", TINY_TRANSFORMER), ("vae", TINY_VAE)):
        config = getattr(ours, name).config
        assert {key: config[key] for key in expected} == expected


def test_single_file_names_match_diffusers_converter():
    """Number the rows of every tensor, at FLUX's own width, the only one that diffusers' converter supports."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    dim, mlp = 3072, 12288
    rows = {
        "img_in": dim, "txt_in": dim, "final_layer.linear": 64, "final_layer.adaLN_modulation.1": 2 * dim,
        **{f"{outer}_in.{inner}_layer": dim for outer in ("time", "vector", "guidance") for inner in ("in", "out")},
        **{f"double_blocks.0.{stream}_{name}": count for stream in ("img", "txt") for name, count in (
            ("mod.lin", 6 * dim), ("attn.qkv", 3 * dim), ("attn.proj", dim), ("mlp.0", mlp), ("mlp.2", dim),
        )},
        "single_blocks.0.modulation.lin": 3 * dim, "single_blocks.0.linear1": 3 * dim + mlp,
        "single_blocks.0.linear2": dim,
    }  # fmt: skip
    state, begin = {}, 0
    for name, count in rows.items():
        for kind in ("weight", "bias"):
            numbers = torch.arange(begin, begin + count)
            state[f"{name}.{kind}"] = numbers[:, None] if kind == "weight" else numbers
            begin += count
    for norm in ("double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm", "single_blocks.0.norm"):
        for which in ("query_norm", "key_norm"):
            state[f"{norm}.{which}.scale"] = torch.arange(begin, begin + 128)
            begin += 128
    ours = single_file.transformer_state(state)
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(state))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


# Invalid checkpoints


def assert_rejected(path, words):
    """Assert that `inspect` raises a WeightsError that matches `words` and has a hint; return it."""
    with pytest.raises(WeightsError, match=words) as caught:
        checkpoints.inspect(path)
    assert caught.value.hint
    return caught.value


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_truncated_file_is_rejected(copy):
    data = (copy / TRANSFORMER).read_bytes()
    (copy / TRANSFORMER).write_bytes(data[: len(data) // 2])
    assert_rejected(copy, "is incomplete: it has")
    (copy / TRANSFORMER).write_bytes(data[:6])
    assert_rejected(copy, "damaged or incomplete")


def test_missing_file_is_rejected(copy):
    (copy / VAE).unlink()
    assert str(copy / VAE) in assert_rejected(copy, "is missing").message


def test_missing_shard_is_rejected(copy):
    from diffusers import FluxTransformer2DModel

    FluxTransformer2DModel.from_pretrained(copy / "transformer").save_pretrained(
        copy / "transformer", max_shard_size="1MB"
    )
    next((copy / "transformer").glob("*-00002-of-*")).unlink()
    assert_rejected(copy, "00002-of-.* is missing")


def test_empty_folder_is_rejected(tmp_path):
    assert_rejected(tmp_path, r"model_index\.json is missing")


def test_damaged_json_is_rejected(copy):
    (copy / "model_index.json").write_text("{")
    assert_rejected(copy, "can't be read")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model_index.json", b"[]", "can't be read"),
        ("model_index.json", b'{"_class_name": "\xff"}', "can't be read"),
        ("transformer/config.json", b"[]", "can't be read"),
        ("vae/config.json", b"null", "can't be read"),
        ("scheduler/scheduler_config.json", b'"shift"', "can't be read"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", b"[]", "can't be read"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", b"{}", "can't be read"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {"x": 1}}', "can't be read"),
        ("transformer/config.json", {"num_layers": "two"}, "No FluxTransformer2DModel can be made from"),
        ("transformer/config.json", {"attention_head_dim": 0}, "No FluxTransformer2DModel can be made from"),
        ("vae/config.json", {"block_out_channels": []}, "No AutoencoderKL can be made from"),
        ("vae/config.json", {"norm_num_groups": 5}, "No AutoencoderKL can be made from"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}, "No FlowMatch.*Scheduler can be made from"),
    ],
)
def test_invalid_json_and_configs_are_rejected(copy, name, content, words):
    file = copy / name
    if isinstance(content, dict):
        edit(file, **content)
    else:
        file.write_bytes(content)
    assert str(file) in assert_rejected(copy, words).message


def test_other_pipeline_class_is_rejected(copy):
    edit(copy / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert_rejected(copy, "is a StableDiffusionXLPipeline, not a FluxPipeline")


def test_other_transformer_class_is_rejected(copy):
    edit(copy / "transformer" / "config.json", _class_name="SD3Transformer2DModel")
    assert_rejected(copy, "is a SD3Transformer2DModel")


def test_missing_unexpected_and_mismatched_tensors_are_named(copy):
    state = load_file(copy / TRANSFORMER)
    state["extra.weight"] = state.pop("x_embedder.bias")
    state["proj_out.bias"] = torch.zeros(3)
    save_file(state, copy / TRANSFORMER)
    message = assert_rejected(copy, "does not fit FluxTransformer2DModel").message
    assert "1 tensors missing (x_embedder.bias)" in message
    assert "1 tensors unexpected (extra.weight)" in message
    assert "1 tensors of another shape (proj_out.bias)" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [({"in_channels": 128}, "takes 128"), ({"guidance_embeds": False}, "no guidance embedding")],
)
def test_flux_depth_and_schnell_are_rejected(copy, change, words):
    edit(copy / "transformer" / "config.json", **change)
    assert_rejected(copy, words)


def test_pickle_checkpoint_is_rejected(tmp_path):
    (tmp_path / "flux.ckpt").write_bytes(b"\x80\x04")
    assert_rejected(tmp_path / "flux.ckpt", r"not a \.safetensors or \.gguf file")


def test_single_file_of_another_model_is_rejected(tmp_path):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, tmp_path / "sd.safetensors")
    assert_rejected(tmp_path / "sd.safetensors", "not a FLUX checkpoint")


def test_single_file_without_vae_is_rejected(tiny_states, tmp_path):
    save_file(tiny_states[0], tmp_path / "flux1-dev.safetensors")
    error = assert_rejected(tmp_path / "flux1-dev.safetensors", "holds no VAE")
    assert "ae.safetensors" in error.hint
    assert str(tmp_path) in error.hint


def write_single_file(folder, states, **changes):
    """Write a single file and its VAE with the shapes in `changes` (None: omitted); keys of the VAE: `vae.…`."""
    for file, prefix, state in zip(("flux1-dev", "ae"), ("", "vae."), states, strict=True):
        shapes = {key: changes.get(prefix + key, tuple(tensor.shape)) for key, tensor in state.items()}
        changed = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items() if shape is not None}
        save_file(changed, folder / f"{file}.safetensors")
    return folder / "flux1-dev.safetensors"


@pytest.mark.parametrize(
    ("key", "shape", "named"),
    [
        ("double_blocks.0.img_attn.qkv.weight", (400, 128), "of another shape (transformer_blocks.0.attn.to_v.weight)"),
        ("double_blocks.1.txt_attn.qkv.bias", (), "transformer_blocks.1.attn.add_k_proj.bias"),
        ("single_blocks.0.linear1.weight", (100, 128), "single_transformer_blocks.0.attn.to_k.weight"),
        ("single_blocks.0.linear1.weight", None, "it has no single_blocks.0.linear1.weight"),
        ("final_layer.adaLN_modulation.1.weight", (), "norm_out.linear.weight"),
        ("img_in.weight", (128,), "its img_in.weight is of shape (128,)"),
        ("img_in.weight", (64, 64), "img_in.weight 64"),
        ("img_in.weight", (128, 384), "takes 384 channels"),
        ("double_blocks.0.img_attn.norm.query_norm.scale", (), "query_norm.scale is of shape ()"),
        ("txt_in.weight", (128,), "its txt_in.weight is of shape (128,)"),
        ("vae.encoder.down.0.block.0.conv1.weight", (16, 32, 3, 3), "encoder.down.0.block.0.conv1.weight is 16 wide"),
        ("vae.encoder.down.0.block.0.conv1.weight", None, "it has no encoder.down.0.block.0.conv1.weight"),
        ("vae.encoder.down.1.block.0.conv1.weight", (32,), "encoder.down.1.block.0.conv1.weight is of shape (32,)"),
        ("vae.decoder.conv_in.weight", None, "it has no decoder.conv_in.weight"),
        ("vae.decoder.mid.attn_1.q.weight", (32,), "decoder.mid_block.attentions.0.to_q.weight"),
        ("vae.encoder.down.0.downsample.conv.bias", None, "it has no encoder.down.0.downsample.conv.bias"),
        ("vae.decoder.up.1.upsample.conv.bias", None, "it has no decoder.up.1.upsample.conv.bias"),
        ("vae.decoder.conv_out.bias", None, "1 tensors missing (decoder.conv_out.bias)"),
    ],
)
def test_invalid_tensor_in_a_single_file_is_named(tiny_states, tmp_path, key, shape, named):
    message = assert_rejected(write_single_file(tmp_path, tiny_states, **{key: shape}), re.escape(named)).message
    assert str(tmp_path / ("ae.safetensors" if key.startswith("vae.") else "flux1-dev.safetensors")) in message


# Prompt embeddings


def load_embeds(path, reporter):
    checkpoint = checkpoints.locate(flux(path), reporter)
    return text_encoding.embeds(checkpoint, checkpoints.inspect(checkpoint.path), reporter)


@pytest.mark.slow
def test_prompt_embeds_are_computed_once_and_cached(copy, reporter):
    from diffusers import FluxPipeline

    found = load_embeds(copy, reporter)
    pipeline = FluxPipeline.from_pretrained(copy, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, pooled, _ = pipeline.encode_prompt("[EQUIRECTANGULAR]", device="cpu")
    assert found["prompt_embeds"].shape == (1, 512, 32)
    torch.testing.assert_close(found["prompt_embeds"], expected, rtol=0, atol=0)
    torch.testing.assert_close(found["pooled_prompt_embeds"], pooled, rtol=0, atol=0)

    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(copy / part)
    again = load_embeds(copy, reporter)
    assert all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.slow
def test_text_encoders_beside_a_single_file_need_no_index(tiny_flux, tiny_states, tmp_path, reporter):
    """As found by the diagnosis, and with the embedding that the folder has."""
    file = write_single_file(tmp_path, tiny_states)
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(tiny_flux / part, tmp_path / part)
    checkpoint = checkpoints.locate(flux(file), reporter)
    assert text_encoding.origin(checkpoint, checkpoints.inspect(file)) == "text encoders"
    found, expected = load_embeds(file, reporter), load_embeds(tiny_flux, reporter)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_missing_text_encoder_without_cached_embeds_is_rejected(copy, reporter):
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(WeightsError, match="text_encoder_2") as caught:
        load_embeds(copy, reporter)
    assert str(copy) in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("tokenizer/tokenizer_config.json", {"model_max_length": -5}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "77"}),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}),
        ("text_encoder_2/config.json", {"relative_attention_max_distance": 1}),
        ("text_encoder/config.json", {"hidden_act": "none"}),
    ],
)
def test_text_encoders_that_fail_when_loaded_or_used_are_told(copy, reporter, part, values):
    file = copy / part
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(WeightsError, match=r"text encoders in .* can't be used"):
        load_embeds(copy, reporter)


def test_embeds_of_another_model_are_rejected(copy, reporter):
    shutil.copy(checkpoints.STARTER / "prompt_embeds.safetensors", copy)
    with pytest.raises(WeightsError, match="not made for this model"):
        load_embeds(copy, reporter)


# The hub


class Hub(BaseHTTPRequestHandler):
    """Responds like the hub for `owner/gated`, `owner/private`, `owner/broken`; for `owner/hangs` once `released`."""

    released = threading.Event()

    def do_GET(self):
        if "hangs" in self.path:
            self.released.wait(60)
        code, header = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound")}.get(
            self.path.split("/")[4], (500, "")
        )
        self.send_response(code)
        self.send_header("X-Error-Code", header)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
    import huggingface_hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("repo", "words", "hint"),
    [
        ("owner/gated", "is gated", "Accept it at https://huggingface.co/owner/gated"),
        ("owner/private", "neither a folder or file nor a hub repository", "hf auth login"),
        ("owner/broken", r"an error of its own \(HTTP 500\)", "into .*FLUX.1-dev"),
    ],
)
def test_hub_errors_are_reported_with_a_hint(hub_server, reporter, repo, words, hint):
    with pytest.raises(WeightsError, match=words) as caught:
        checkpoints.locate(flux(repo), reporter)
    assert re.search(hint, caught.value.hint)


def test_download_can_be_cancelled_while_the_hub_hangs(hub_server, stopping_reporter):
    def download_threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith(hub._THREAD)]

    try:
        with pytest.raises(Cancelled):
            checkpoints.locate(flux("owner/hangs"), stopping_reporter(lambda stage, _step: True))
        assert download_threads(), "the download's thread was joined"
    finally:
        Hub.released.set()
        for thread in download_threads():
            thread.join()


def test_hub_that_does_not_answer_is_given_up_soon(hub_server, stopping_reporter, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(hub, "CONTACT_S", 0.2)
    monkeypatch.setattr(Hub, "released", threading.Event())
    watching = stopping_reporter(lambda _stage, _step: False)
    began = time.monotonic()
    try:
        with pytest.raises(WeightsError, match="owner/hangs is not on this computer, and the hub can't be reached"):
            checkpoints.locate(flux("owner/hangs"), watching)
        assert time.monotonic() - began < 10
        assert next(stage for stage, *_ in watching.reported).startswith("Contacting 127.0.0.1")

        # What an earlier download left is used.
        cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--owner--hangs"
        folder = cached / "snapshots" / ("0" * 40)
        folder.mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
        assert hub.fetch("owner/hangs", ["*.json"], tmp_path, watching) == folder
    finally:
        Hub.released.set()


def test_missing_model_is_reported_offline(reporter, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match="not on this computer") as caught:
        checkpoints.locate(flux("owner/FLUX"), reporter)
    assert "FLUX.1-dev" in caught.value.hint
