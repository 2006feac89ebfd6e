import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from panoform.backend.cli.diagnosis import diagnose, doctor
from panoform.shared.engines import EngineSettings

ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.fixture
def flux(tiny_flux, tiny_adapters):
    return {"engine": "flux", "model": str(tiny_flux), "adapters": str(tiny_adapters)}


def test_the_starter_can_run(capsys):
    assert doctor(EngineSettings(), as_json=False) == 0
    told = capsys.readouterr().out
    assert "rgb_to_depth/depth       30 of 30 modules, rank 24, F16" in told
    assert told.rstrip().endswith("This engine can run.")


def test_json(capsys, flux):
    assert doctor(EngineSettings(**flux), as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["prompt"] == "text encoders"
    assert [part["name"] for part in found["parts"]] == ["transformer", "vae"]
    assert {part["dtype"] for part in found["parts"]} == {"BF16"}
    assert len(found["streams"]) == 10
    # Two double blocks of six modules, two single blocks of three.
    assert {(line["filled"], line["modules"], line["rank"]) for line in found["streams"]} == {(18, 18, 4)}
    assert 0 < found["memory_needed"] < found["memory_free"] < found["memory_total"]


def test_an_adapter_with_a_hole_is_counted_and_named(capsys, flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters, tmp_path / "holed")
    file = tmp_path / "holed" / "rgb_to_pbr" / "pbr" / ADAPTER
    save_file({k: v for k, v in load_file(file).items() if "single_transformer_blocks.1.attn.to_v" not in k}, file)
    assert doctor(EngineSettings(**flux | {"adapters": str(tmp_path / "holed")}), as_json=False) == 1
    told = capsys.readouterr().out
    assert "17 of 18 modules" in told
    assert "single_transformer_blocks.1.attn.to_v" in told
    assert told.rstrip().endswith("This engine can't run.")


def test_missing_adapters_are_all_listed(flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "rgb_to_depth")
    found = diagnose(EngineSettings(**flux | {"adapters": str(tmp_path)}))
    assert [bool(line.problem) for line in found.streams] == [False] * 2 + [True] * 8
    assert len(found.problems) == 8


def test_a_wrong_checkpoint(capsys, flux, tmp_path):
    assert doctor(EngineSettings(**flux | {"model": str(tmp_path)}), as_json=False) == 1
    assert "model_index.json is missing" in capsys.readouterr().out


def test_no_text_encoders(flux, tiny_flux, tmp_path):
    copy = shutil.copytree(tiny_flux, tmp_path / "flux", ignore=shutil.ignore_patterns("text_encoder*"))
    found = diagnose(EngineSettings(**flux | {"model": str(copy)}))
    assert found.prompt == ""
    assert any("text encoder" in problem for problem in found.problems)


def test_nothing_is_downloaded(flux, monkeypatch, tmp_path):
    import huggingface_hub

    # Any request would fail at once: nothing listens there.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = diagnose(EngineSettings(engine="flux"))
    assert "FLUX.1-dev is not on this computer" in found.problems[0]
    assert "first job downloads it" in found.problems[0]
