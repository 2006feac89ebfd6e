import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from panoform.backend.cli.doctor import lines
from panoform.backend.cli.main import main
from panoform.backend.inventory.diagnosis import diagnose
from panoform.shared.engines import EngineSettings

ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.fixture
def flux(tiny_flux, tiny_adapters):
    return {"engine": "flux", "model": str(tiny_flux), "adapters": str(tiny_adapters)}


def arguments(settings: dict[str, str]) -> list[str]:
    return [argument for name, value in settings.items() for argument in (f"--{name}", value)]


def test_starter_can_run(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "rgb_to_depth/depth       30 of 30 modules, rank 24, F16" in output
    assert output.rstrip().endswith("This engine can run.")


def test_json_holds_parts_adapters_and_memory(capsys, flux):
    assert main(["doctor", *arguments(flux), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["prompt"] == "text encoders"
    assert [part["name"] for part in found["parts"]] == ["transformer", "vae"]
    assert {part["dtype"] for part in found["parts"]} == {"BF16"}
    assert len(found["streams"]) == 10
    # Two double blocks of six modules, two single blocks of three.
    assert {(line["filled"], line["modules"], line["rank"]) for line in found["streams"]} == {(18, 18, 4)}
    assert 0 < found["memory_needed"] < found["memory_free"] < found["memory_total"]


def test_missing_modules_of_an_adapter_are_counted_and_named(capsys, flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters, tmp_path / "incomplete")
    file = tmp_path / "incomplete" / "rgb_to_pbr" / "pbr" / ADAPTER
    save_file({k: v for k, v in load_file(file).items() if "single_transformer_blocks.1.attn.to_v" not in k}, file)
    assert main(["doctor", *arguments(flux | {"adapters": str(tmp_path / "incomplete")})]) == 1
    output = capsys.readouterr().out
    assert "17 of 18 modules" in output
    assert "single_transformer_blocks.1.attn.to_v" in output
    assert output.rstrip().endswith("This engine can't run.")


def test_missing_adapters_are_all_listed(flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "rgb_to_depth")
    found = diagnose(EngineSettings(**flux | {"adapters": str(tmp_path)}))
    assert [bool(line.problem) for line in found.streams] == [False] * 2 + [True] * 8
    assert len(found.problems) == 8


def test_folder_without_a_checkpoint_is_reported(flux, tmp_path):
    output = "\n".join(lines(diagnose(EngineSettings(**flux | {"model": str(tmp_path)}))))
    assert "model_index.json is missing" in output
    assert output.endswith("This engine can't run.")


def test_missing_text_encoders_are_reported(flux, tiny_flux, tmp_path):
    copy = shutil.copytree(tiny_flux, tmp_path / "flux", ignore=shutil.ignore_patterns("text_encoder*"))
    found = diagnose(EngineSettings(**flux | {"model": str(copy)}))
    assert found.prompt == ""
    assert any("text encoder" in problem for problem in found.problems)


def test_nothing_is_downloaded(flux, monkeypatch, tmp_path):
    import huggingface_hub

    # Any request fails immediately: nothing listens on this port.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = diagnose(EngineSettings(engine="flux"))
    assert "FLUX.1-dev is not on this computer" in found.problems[0]
    assert "first job downloads it" in found.problems[0]


@pytest.mark.slow
def test_multiview_can_run_with_one_of_its_adapters(capsys, tiny_sd21, multiview_adapters, tmp_path):
    options = ["--engine", "multiview", "--model", str(tiny_sd21), "--adapters"]
    assert main(["doctor", *options, str(multiview_adapters)]) == 0
    output = capsys.readouterr().out
    assert "ig2mv                    198 of 198 tensors, F32" in output
    assert "tg2mv                    118 of 118 tensors, F32" in output
    state = load_file(multiview_adapters / "mvadapter_ig2mv_sd21.safetensors")
    missing = next(key for key in state if "to_q_ref" in key)
    file = tmp_path / "mvadapter_ig2mv_sd21.safetensors"
    save_file({key: tensor for key, tensor in state.items() if key != missing}, file)
    assert main(["doctor", *options, str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "197 of 198 tensors" in output
    assert missing in output
    assert "tg2mv                    missing" in output
    shutil.copy(multiview_adapters / "mvadapter_tg2mv_sd21.safetensors", tmp_path)
    assert main(["doctor", *options, str(tmp_path)]) == 0
