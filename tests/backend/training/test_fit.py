"""Both stages train, resume, and are exported as a starter that the engine runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scene_files import write_scene

from panoform.backend.training import __main__ as command
from panoform.backend.training import architecture, fast_decoder, fit, latents

HEIGHT = 64


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Train networks of the starter's architecture, but narrower and with fewer blocks."""
    monkeypatch.setitem(architecture.VAE, "block_out_channels", (8, 16, 16, 24))
    monkeypatch.setitem(architecture.TRANSFORMER, "num_single_layers", 2)
    monkeypatch.setitem(architecture.TRANSFORMER, "num_attention_heads", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "heldout"):
        for seed in range(2):
            write_scene(folder / str(HEIGHT) / split / f"{seed:06d}", seed, HEIGHT)
    return folder


@pytest.mark.slow
def test_train_resume_export(data, capsys, monkeypatch):
    monkeypatch.setattr(latents, "_SCENES_PER_FILE", 2)
    monkeypatch.setattr(fit, "_NORMALISATION_SCENES", 2)
    monkeypatch.setattr(fast_decoder, "_STEPS", 5)
    common = ["--height", str(HEIGHT), "--device", "cpu"]
    train = ["--data", str(data), "train", "--batch", "2", "--perceiver-steps", "3", "--pixels-every", "3", *common]
    command.main([*train, "--vae-steps", "2"])
    command.main([*train, "--vae-steps", "3"])
    history = capsys.readouterr().out
    assert "vae: from step 2 of 3" in history
    assert "perceiver: from step 3 of 3" in history
    assert "held out: distance AbsRel" in history
    assert {path.name for path in (data / "checkpoints" / "pictures").iterdir()} == {
        "vae-000002.png", "vae-000003.png", "perceiver-000003.png",
    }  # fmt: skip

    folders = list((data / "checkpoints").glob(f"latents-{HEIGHT}-{HEIGHT}-2-*"))
    assert len(folders) == 2, "the cache must be per VAE"
    first = max(folders, key=lambda folder: folder.stat().st_mtime) / "000000-000001.safetensors"
    before = first.read_bytes(), first.stat().st_mtime_ns
    write_scene(data / str(HEIGHT) / "train" / "000002", 2, HEIGHT)
    command.main([*train, "--vae-steps", "3"])
    assert "latents: 1 of 2 files are cached" in capsys.readouterr().out
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before, "cached latents must be kept"
    for values in load_file(first.with_name("000002-000002.safetensors")).values():
        assert len(values) == 2

    out = data / "starter"
    command.main(["--data", str(data), "export", "--out", str(out), *common])
    from panoform.backend.cli import main

    assert (
        main.main(["evaluate", "--model", str(out), "--data", str(data / str(HEIGHT) / "heldout"), "--height", "64"])
        == 0
    )
    assert "2 scenes at 128 × 64" in capsys.readouterr().out

    (data / "checkpoints" / "perceiver.safetensors").unlink()
    command.main([*train, "--start", str(out)])
    assert "vae" not in capsys.readouterr().out, "the starter's VAE must be kept"
    command.main(["--data", str(data), "export", "--out", str(data / "on"), "--start", str(out), *common])
    vae = Path("vae", "diffusion_pytorch_model.safetensors")
    for name, value in load_file(out / vae).items():
        assert torch.equal(load_file(data / "on" / vae)[name], value)
    config = Path("vae", "config.json")
    assert (data / "on" / config).read_text("utf-8") == (out / config).read_text("utf-8")


@pytest.mark.slow
def test_train_without_cache_on_scenes_of_two_heights(tmp_path, capsys):
    """As on a GPU: no latents are cached, and every sixth step is at half the height."""
    for height, split, seeds in ((HEIGHT // 2, "train", 2), (HEIGHT, "train", 1), (HEIGHT // 2, "heldout", 1)):
        for seed in range(seeds):
            write_scene(tmp_path / str(height) / split / f"{seed:06d}", seed, height)
    common = ["--data", str(tmp_path), "train", "--height", str(HEIGHT), "--device", "cpu", "--batch", "1"]
    command.main([*common, "--vae-steps", "1", "--perceiver-steps", "6", "--pixels-every", "1"])
    history = capsys.readouterr().out
    assert "perceiver: from step 0 of 6, 3 scenes" in history
    assert all(f" {stream} " in history for stream in ("depth", "albedo", "normal", "pbr", "semantic", "pano"))
    assert "held out: distance AbsRel" in history
    assert not list((tmp_path / "checkpoints").glob("latents-*"))


def test_incomplete_scene_is_rejected_before_training(data, tmp_path):
    for split in ("train", "heldout"):
        write_scene(tmp_path / str(HEIGHT) / split / "000000", 0, HEIGHT)
    (tmp_path / str(HEIGHT) / "train" / "000000" / "albedo.png").unlink()
    with pytest.raises(SystemExit, match=r"albedo\.png is missing"):
        command.main(["--data", str(tmp_path), "train", "--height", str(HEIGHT), "--device", "cpu"])
    assert not (tmp_path / "checkpoints").exists()


def test_start_without_a_starter_is_rejected(data, tmp_path):
    with pytest.raises(SystemExit, match="is not a starter folder"):
        command.main(["--data", str(data), "train", "--start", str(tmp_path), "--height", str(HEIGHT)])
