"""Maps at approximate settings compared with exact ones of the same seed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from panoform.backend.cli import main
from panoform.backend.evaluation import against, evaluate
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception import job
from panoform.backend.training.scenes.render_io import write_image
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol.errors import AdapterError, SettingError

STEPS = EngineSettings(engine="starter").spec.qualities["standard"].num_inference_steps
SETTINGS = PerceiveSettings(maps=("distance", "albedo"), height=64, seed=3, cache=0.5, turbo="x")


def picture(height: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((height, 2 * height, 3)).astype(np.float32)


def test_settings_name_all_approximations():
    """Those that are not named are off, whatever the other options say."""
    found = against.changed(SETTINGS, "steps=8,cache=0.1")
    assert (found.num_inference_steps, found.cache, found.turbo, found.turbo_scale) == (8, 0.1, None, 1.0)
    assert (found.maps, found.height, found.seed) == (SETTINGS.maps, 64, 3)
    found = against.changed(SETTINGS, "steps=4,turbo=a/b.safetensors,turbo-scale=0.125")
    assert (found.turbo, found.turbo_scale) == ("a/b.safetensors", 0.125)


def test_a_path_may_have_commas():
    text = "steps=4,turbo=four, or so/b,c.safetensors,turbo-scale=0.125"
    found = against.changed(SETTINGS, text)
    assert (found.turbo, found.turbo_scale) == ("four, or so/b,c.safetensors", 0.125)
    assert against.named(found) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step=5", "no setting 'step' to compare. Use steps, cache, turbo, turbo-scale"),
        ("steps", "steps has no number"),
        ("steps=many", "steps=many has no number"),
        ("steps=201", "must lie between"),
        ("cache=2", "must lie between"),
    ],
)
def test_unknown_settings_are_rejected(text, words):
    with pytest.raises(SettingError, match=words):
        against.changed(SETTINGS, text)


def test_maps_without_distance_are_compared_everywhere():
    albedo = np.full((4, 8, 3), 0.5, np.float32)
    metrics = evaluate.measure({"albedo": albedo + 0.1}, {"albedo": albedo})
    assert metrics == {"albedo PSNR": pytest.approx(20, abs=1e-4)}


@pytest.mark.slow
def test_command_compares_approximations_with_exact_maps(fast_flux, tiny_adapters, tiny_lora, tmp_path, capsys):
    write_image(tmp_path / "panorama.exr", picture(), "float")
    exact = ("steps=3,cache=1e-09", f"steps=3,turbo={tiny_lora},turbo-scale=0")
    approximate = ("steps=1", "steps=3,cache=1", f"steps=3,turbo={tiny_lora},turbo-scale=1")
    arguments = [
        "evaluate", "--data", str(tmp_path), "--engine", "flux", "--model", str(fast_flux), "--dtype", "fp32",
        "--adapters", str(tiny_adapters), "--device", "cpu", "--maps", "distance,albedo", "--height", "64",
        "--against", "steps=3", "--json",
    ]  # fmt: skip
    for name in exact + approximate:
        arguments += ["--compare", name]
    assert main.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["columns"]) == [*exact, *approximate, "steps=3"]
    assert set(found["columns"]["steps=3"]) == {"seam step"}
    for name in exact:
        assert found["columns"][name]["distance AbsRel"] == pytest.approx(0, abs=1e-6)
        assert found["columns"][name]["albedo PSNR"] == 50
    for name in approximate:
        assert found["columns"][name]["distance AbsRel"] > 1e-3
        assert found["columns"][name]["albedo PSNR"] < 50
    table = against.table(against.Comparison(**found))
    assert "1 panoramas, compared with steps=3 of the same seed" in table
    assert "distance AbsRel <" in table


@pytest.mark.slow
def test_approximations_are_recorded_and_leave_the_model_as_it_was(fast_flux, tiny_adapters, tiny_lora, reporter):
    engine = EngineSettings(engine="flux", model=str(fast_flux), adapters=str(tiny_adapters), dtype="fp32")
    models = ModelCache()

    def perceive(**options):
        settings = PerceiveSettings(maps=("albedo",), height=64, num_inference_steps=2, **options)
        request = PerceiveRequest(panorama=picture(), encoding="srgb", engine=engine, settings=settings)
        return job.perceive(request, models, reporter)

    plain = perceive()
    both = perceive(cache=0.5, turbo=str(tiny_lora), turbo_scale=0.5)
    assert plain.info.approximations == {}
    assert both.info.approximations == {"cache": 0.5, "turbo": tiny_lora.name, "turbo_scale": 0.5}
    assert tiny_lora.name in both.info.weights
    assert not np.array_equal(plain.maps["albedo"], both.maps["albedo"])
    assert np.array_equal(plain.maps["albedo"], perceive().maps["albedo"])
    with pytest.raises(AdapterError, match=r"no LoRA nowhere\.safetensors"):
        perceive(turbo="nowhere.safetensors")


def command(monkeypatch, tmp_path, *arguments: str) -> tuple[int, list[PerceiveSettings]]:
    """Return the exit status of the command with the starter, and the settings that it perceives at."""
    write_image(tmp_path / "panorama.exr", picture(), "float")
    asked = []

    def perceive(request, *_):
        asked.append(request.settings)
        maps = {"albedo": np.full((64, 128, 3), len(asked) / 100, np.float32)}
        # Loading, and compiling at the first, are no part of the work.
        seconds = {"loading": 70.0, "sampling": 100.0 if len(asked) <= 2 else 2.0, "decoding": 1.0, "all": 200.0}
        return SimpleNamespace(maps=maps, info=SimpleNamespace(seconds=seconds))

    monkeypatch.setattr(job, "perceive", perceive)
    options = [
        "evaluate",
        "--data",
        str(tmp_path),
        "--engine",
        "starter",
        "--maps",
        "albedo",
        "--height",
        "64",
        "--json",
    ]
    return main.main([*options, *arguments]), asked


def test_other_options_are_what_is_compared(monkeypatch, tmp_path, capsys):
    """Against settings that don't name them; each column has its steps, and the seconds of its work alone."""
    status, asked = command(monkeypatch, tmp_path, "--cache", "0.1", "--against", "steps=50")
    assert status == 0
    assert [(x.num_inference_steps, x.cache) for x in asked] == [(1, 0), (1, 0.1), (50, 0), (STEPS, 0.1)]
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == {f"steps={STEPS},cache=0.1": 3.0, "steps=50": 3.0}


@pytest.mark.parametrize(("name", "value"), [("steps", "8"), ("cache", "0.1"), ("turbo", "x"), ("turbo-scale", "0.5")])
def test_options_that_compare_would_not_use_are_refused(monkeypatch, tmp_path, capsys, name, value):
    arguments = (f"--{name}", value, "--against", "steps=50", "--compare", "steps=8")
    assert command(monkeypatch, tmp_path, *arguments) == (1, [])
    assert "With --compare, the options --steps, --cache" in capsys.readouterr().err


def test_missing_loras_are_told_before_anything_is_computed(monkeypatch, tmp_path, capsys):
    arguments = ("--against", "steps=50", "--compare", "turbo=nowhere.safetensors")
    assert command(monkeypatch, tmp_path, *arguments) == (1, [])
    assert "no LoRA nowhere.safetensors" in capsys.readouterr().err


def test_settings_that_are_the_same_are_refused(monkeypatch, tmp_path, capsys):
    """Whether they name the engine's steps or not."""
    arguments = ("--against", "cache=0.1", "--compare", f"steps={STEPS},cache=0.10")
    assert command(monkeypatch, tmp_path, *arguments) == (1, [])
    assert "compared with itself" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_limit_is_at_least_one(monkeypatch, tmp_path, capsys, limit):
    assert command(monkeypatch, tmp_path, "--against", "steps=50", "--limit", limit) == (1, [])
    assert f"The limit is {limit}. Use 1 or more." in capsys.readouterr().err


def test_compare_needs_against(tmp_path, capsys):
    assert main.main(["evaluate", "--data", str(tmp_path), "--compare", "steps=8"]) == 1
    assert "--compare needs --against" in capsys.readouterr().err
