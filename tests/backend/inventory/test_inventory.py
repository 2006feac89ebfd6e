"""What is on this computer and what it can run, with tiny checkpoints of the real classes."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from panoform.backend.cli.main import main
from panoform.backend.inventory import job
from panoform.backend.inventory.diagnosis import diagnose
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import checkpoints, text_encoding
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.models import ModelsRequest
from panoform.shared.weights import WEIGHTS

MULTIVIEW = EngineSettings(engine="multiview")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Replace the user's folder, where ComfyUI is looked for, and the hub's cache."""
    import huggingface_hub

    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def listed(reporter, *engines):
    reply = job.run(ModelsRequest(engines=engines), ModelCache(), reporter)
    return reply, {state.name: state for state in reply.weights}


@pytest.mark.slow
def test_empty_computer_is_told_what_it_could_run(reporter, user_folders):
    reply, states = listed(reporter, EngineSettings(engine="flux", device="cpu"), MULTIVIEW)
    assert list(states) == list(WEIGHTS)
    assert not any(state.place for state in states.values())
    assert "is not on this computer" in states["flux"].problem
    assert reply.folder == str(user_folders / "models")
    assert reply.disk_free > 0
    assert reply.devices[0].name == reply.device == "cpu"
    fp32, int8, nf4 = reply.precisions["flux"]
    assert [fp32.dtype, int8.dtype, nf4.dtype] == ["fp32", "int8", "nf4"]
    # 11,901,408,320 parameters of the transformer, published; 83,819,683 of the VAE: activations come on top.
    assert fp32.everything > 4 * (11_901_408_320 + 83_819_683)
    # Rounded, the blocks have one byte for each parameter, or 4.5 bits.
    assert 0.25 < int8.everything / fp32.everything < 0.42
    assert 0.18 < nf4.everything / fp32.everything < 0.3
    (multiview,) = reply.precisions["multiview"]
    assert multiview.everything == 4 * sum(job.SD21_PARAMETERS)


@pytest.mark.slow
def test_estimate_is_that_of_doctor(reporter, tiny_flux, tiny_adapters):
    settings = EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters))
    reply, states = listed(reporter, settings)
    assert states["flux"].place == str(tiny_flux)
    assert states["flux"].problem == states["omnix"].problem == ""
    files = [*(tiny_flux / "transformer").glob("*.safetensors"), *(tiny_flux / "vae").glob("*.safetensors")]
    assert states["flux"].bytes == sum(file.stat().st_size for file in files)
    found = diagnose(settings)
    first = reply.precisions["flux"][0]
    assert (first.dtype, first.everything) == (found.dtype, found.memory_everything)
    assert first.runs == "whole"


@pytest.mark.slow
def test_planned_base_has_the_published_number_of_parameters():
    assert checkpoints.planned().transformer.parameters == 11_901_408_320


@pytest.mark.slow
def test_parameters_of_stable_diffusion_are_those_of_its_classes():
    unet = {
        "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True,
        "sample_size": 64,
    }  # fmt: skip
    vae = {
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    }  # fmt: skip
    with torch.device("meta"):
        networks = UNet2DConditionModel(**unet), AutoencoderKL(**vae)
    assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == job.SD21_PARAMETERS


def test_incomplete_adapters_are_counted(reporter, tiny_flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "some" / "rgb_to_depth")
    settings = EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tmp_path / "some"))
    omnix = listed(reporter, settings)[1]["omnix"]
    assert omnix.place == str(tmp_path / "some")
    assert omnix.problem.startswith("8 of 10 adapters can't be used. ")


def test_missing_device_is_told_beside_the_weights(reporter, tiny_flux):
    reply, states = listed(reporter, EngineSettings(engine="flux", model=str(tiny_flux), device="cuda:99"))
    assert "cuda:99 is not on this computer" in reply.problem
    assert states["flux"].place == str(tiny_flux)
    assert not reply.precisions


@pytest.mark.slow
def test_multiview_is_found(reporter, tiny_sd21, multiview_adapters):
    settings = EngineSettings(engine="multiview", model=str(tiny_sd21), adapters=str(multiview_adapters))
    states = listed(reporter, settings)[1]
    assert not states["sd21"].problem
    assert not states["mv-adapter"].problem
    assert states["mv-adapter"].bytes > 0


@pytest.mark.slow
def test_files_of_comfyui_are_found_and_can_be_loaded(reporter, home, tiny_states, tiny_flux, user_folders):
    transformer, vae = tiny_states
    models = home / "ComfyUI" / "models"
    for folder in ("diffusion_models/flux", "checkpoints", "vae"):
        (models / folder).mkdir(parents=True)
    file = models / "diffusion_models" / "flux" / "flux1-dev.safetensors"
    save_file(transformer, file)
    save_file(vae, models / "vae" / "ae.safetensors")
    save_file({"x": torch.zeros(2)}, models / "checkpoints" / "another.safetensors")
    (models / "checkpoints" / "damaged.safetensors").write_bytes(b"damaged")
    states = listed(reporter, EngineSettings(engine="flux"), MULTIVIEW)[1]
    assert [found.path for found in states["flux"].found] == [str(file)]
    assert states["flux"].found[0].bytes == file.stat().st_size
    assert states["sd21"].found == ()

    # The text encoders of a downloaded FLUX.1-dev serve the file, which has none.
    settings = EngineSettings(engine="flux", model=str(file))
    assert "text encoder" in listed(reporter, settings)[1]["flux"].problem
    shutil.copytree(tiny_flux, user_folders / "models" / WEIGHTS["flux"].folder)
    assert listed(reporter, settings)[1]["flux"].problem == ""
    checkpoint = checkpoints.locate(settings, reporter)
    base = checkpoints.inspect(checkpoint.path)
    assert checkpoints.load(base, torch.float32).transformer is not None
    assert text_encoding.embeds(checkpoint, base, reporter)["prompt_embeds"].shape[-1] == 32


@pytest.mark.slow
def test_stopped_downloads_are_counted(reporter, user_folders):
    part = user_folders / "models" / "OmniX (incomplete)" / "rgb_to_depth" / "rgb"
    part.mkdir(parents=True)
    (part / "pytorch_lora_weights.safetensors").write_bytes(bytes(1234))
    states = listed(reporter, EngineSettings(engine="flux"))[1]
    assert (states["omnix"].incomplete, states["flux"].incomplete) == (1234, 0)


@pytest.mark.slow
def test_command_lists_them(capsys):
    assert main(["models", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "FLUX.1-dev: Maps, prompts and edits" in output
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev (accept it there)" in output
    assert "missing: about 33.7 GB" in output
    assert "fp32  " in output
    assert main(["models", "cat"]) == 1
    assert "Choose from flux, omnix, dit360, sd21, mv-adapter." in capsys.readouterr().err
