"""Fixtures: a tiny FLUX.1-dev of the real classes, in every layout that users have, and backend processes."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from serving import ARITHMETIC, Backend, Peer, idle, wait_until

from panoform.backend.models.flux import bfl_names, single_file
from panoform.backend.server import server as server_module

MULTIVIEW = Path(__file__).parents[1] / "golden" / "multiview"
TINY_TRANSFORMER = {
    "in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128, "num_attention_heads": 1,
    "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True,
}  # fmt: skip
TINY_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32,) * 4, "layers_per_block": 2, "latent_channels": 16,
    "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
#: Not of FLUX's layout, but a fifth of the time.
FAST_VAE = TINY_VAE | {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4}
STREAMS = {
    "rgb_to_depth": ("rgb", "depth"),
    "rgb_to_normal": ("rgb", "normal"),
    "rgb_to_albedo": ("rgb", "albedo"),
    "rgb_to_pbr": ("rgb", "pbr"),
    "rgb_to_semantic": ("rgb", "semantic"),
    "image_to_pano": ("masked_rgb", "filled_rgb"),
}


def _text_encoders():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    clip = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    t5 = T5EncoderModel(T5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    return {
        "text_encoder": CLIPTextModel(clip),
        "text_encoder_2": t5,
        "tokenizer": CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=77),
        "tokenizer_2": T5TokenizerFast(pieces, extra_ids=0, model_max_length=512),
    }


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory):
    """Return a diffusers folder with text encoders. Tests must not write to it."""
    return _write_flux(tmp_path_factory.mktemp("tiny") / "FLUX tiny ö", TINY_VAE)


@pytest.fixture(scope="session")
def fast_flux(tmp_path_factory):
    """Return the like of `tiny_flux`, for tests that decode pictures."""
    return _write_flux(tmp_path_factory.mktemp("tiny") / "FLUX fast ö", FAST_VAE)


def _write_flux(folder, vae):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**single_file.SCHEDULER),
        vae=AutoencoderKL(**vae),
        transformer=FluxTransformer2DModel(**TINY_TRANSFORMER),
        **_text_encoders(),
    ).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _bfl_names(state):
    """Convert diffusers' names to Black Forest Labs', fusing tensors: the inverse of `transformer_state`."""
    rest, bfl = dict(state), {}
    tables = (
        ("transformer_blocks", "double_blocks", bfl_names.DOUBLE),
        ("single_transformer_blocks", "single_blocks", bfl_names.SINGLE),
    )
    for ours, theirs, table in tables:
        for index in range(2):
            for name, parts in table.items():
                for kind in ("weight", "bias"):
                    keys = [f"{ours}.{index}.{part}.{kind}" for part in parts]
                    if keys[0] in rest:
                        suffix = "scale" if name.endswith("_norm") else kind
                        bfl[f"{theirs}.{index}.{name}.{suffix}"] = torch.cat([rest.pop(key) for key in keys])
    for theirs, ours in bfl_names.OUTER.items():
        for kind in ("weight", "bias"):
            tensor = rest.pop(f"{ours}.{kind}")
            bfl[f"{theirs}.{kind}"] = torch.cat(tensor.chunk(2)[::-1]) if ours == "norm_out.linear" else tensor
    assert not rest
    return bfl


def _bfl_vae_names(state):
    """Convert AutoencoderKL's names to those of ae.safetensors."""
    import re

    def renamed(key):
        for pattern, name in (
            (r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block"),
            (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
            (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{3 - int(m[1])}.upsample"),
            (r"decoder\.up_blocks\.(\d)\.resnets", lambda m: f"decoder.up.{3 - int(m[1])}.block"),
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
            (r"mid_block\.attentions\.0\.to_(q|k|v)\.", r"mid.attn_1.\1."),
            (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
        ):
            key = re.sub(pattern, name, key)
        return key

    bfl = {renamed(key): tensor for key, tensor in state.items()}
    # BFL's attention consists of 1 × 1 convolutions.
    square = [key for key, tensor in bfl.items() if "attn_1" in key and tensor.ndim == 2]
    return bfl | {key: bfl[key][..., None, None] for key in square}


@pytest.fixture(scope="session")
def ldm_vae_names():
    """Return a function that converts AutoencoderKL's names to those of single files."""
    return _bfl_vae_names


@pytest.fixture(scope="session")
def tiny_states(tiny_flux):
    """Return the states of transformer and VAE of `tiny_flux` in BFL's naming."""
    return (
        _bfl_names(load_file(tiny_flux / "transformer" / "diffusion_pytorch_model.safetensors")),
        _bfl_vae_names(load_file(tiny_flux / "vae" / "diffusion_pytorch_model.safetensors")),
    )


@pytest.fixture(scope="session")
def tiny_adapters(tiny_flux, tmp_path_factory):
    """Return a folder of adapters for `tiny_flux`, for every task, in the hub's layout."""
    folder = tmp_path_factory.mktemp("adapters")
    generator = torch.Generator().manual_seed(0)

    def pair(name, wide=1, deep=1):
        return {
            f"transformer.{name}.lora_A.weight": torch.randn(4, 128 * deep, generator=generator) * 0.1,
            f"transformer.{name}.lora_B.weight": torch.randn(128 * wide, 4, generator=generator) * 0.1,
        }

    for task, streams in STREAMS.items():
        for stream in streams:
            state = {}
            for index in range(2):
                for name in ("to_q", "to_k", "to_v", "to_out.0"):
                    state |= pair(f"transformer_blocks.{index}.attn.{name}")
                state |= pair(f"transformer_blocks.{index}.ff.net.0.proj", wide=4)
                state |= pair(f"transformer_blocks.{index}.ff.net.2", deep=4)
                for name in ("to_q", "to_k", "to_v"):
                    state |= pair(f"single_transformer_blocks.{index}.attn.{name}")
            file = folder / task / stream / "pytorch_lora_weights.safetensors"
            file.parent.mkdir(parents=True)
            save_file(state, file)
    return folder


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory):
    """Return a LoRA file of the same structure as DiT360's: the attention projections, here of rank 4."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for index in range(2):
        modules = [f"transformer_blocks.{index}.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
        modules += [f"single_transformer_blocks.{index}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
        for module in modules:
            state[f"transformer.{module}.lora_A.weight"] = torch.randn(4, 128, generator=generator)
            state[f"transformer.{module}.lora_B.weight"] = torch.randn(128, 4, generator=generator)
    file = tmp_path_factory.mktemp("lora") / "my löra.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="session")
def tiny_sd21(tmp_path_factory):
    """Return a diffusers folder of the golden tiny Stable Diffusion 2.1, with a text encoder. Not to be written to."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    encoders = _text_encoders()
    folder = tmp_path_factory.mktemp("tiny") / "SD 2.1 tiny ö"
    StableDiffusionPipeline.from_pretrained(
        MULTIVIEW / "tiny-sd21",
        text_encoder=encoders["text_encoder"],
        tokenizer=encoders["tokenizer"],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def multiview_adapters():
    """Return the folder of adapters for `tiny_sd21`, in the hub's layout."""
    return MULTIVIEW / "adapters"


class Recorder:
    """A ProgressReporter that records reports, and cancels the job where `stop_at` returns True."""

    def __init__(self, stop_at=None):
        self.reported, self.previews, self.stop_at = [], [], stop_at

    def progress(self, stage, step, of, fraction, seconds_left):
        self.reported.append((stage, step, of, fraction, seconds_left))
        if self.stop_at and self.stop_at(stage, step):
            from panoform.shared.protocol.errors import Cancelled

            raise Cancelled("Stopped.")

    def preview(self, name, picture):
        self.previews.append((name, picture))

    def check_cancelled(self):
        pass


@pytest.fixture
def reporter():
    return Recorder()


@pytest.fixture(scope="session")
def stopping_reporter():
    """Return a class whose ProgressReporters raise Cancelled where `stop_at(stage, step)` returns True."""
    return Recorder


@pytest.fixture(autouse=True)
def user_folders(tmp_path_factory, monkeypatch):
    """Replace the user's cache and model folders by temporary ones."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("PANOFORM_MODELS", str(folder / "models"))
    return folder


# Backend processes and clients


@pytest.fixture(scope="module")
def backend(tmp_path_factory) -> Iterator[Backend]:
    # A path with a space and non-ASCII letters.
    process = Backend(ARITHMETIC, tmp_path_factory.mktemp("vérbindung 1") / "connection.json")
    yield process
    process.end()


@pytest.fixture
def own_backend(tmp_path) -> Iterator[Backend]:
    process = Backend(ARITHMETIC, tmp_path / "connection.json", "--parent-pipe")
    yield process
    process.end()


@pytest.fixture
def peer(backend) -> Iterator[Peer]:
    client = Peer(backend.connection)
    yield client
    client.close()
    wait_until(idle(backend))


@pytest.fixture
def serve() -> Iterator[Callable[..., server_module.Server]]:
    """Return a function that starts a server in this process, so that a test can lower its limits."""
    servers = []

    def serve(run: Callable) -> server_module.Server:
        server = server_module.Server(run)
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        return server

    yield serve
    for server, thread in servers:
        server.end()
        thread.join()
        server.close()
