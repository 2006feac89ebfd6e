"""Perception with the starter."""

import shutil

import numpy as np
import pytest
import torch
from perceiving import ALL, HEIGHT, check_rejected, equal_maps, perceive, scene
from safetensors.torch import load_file, save_file

from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux.checkpoints import STARTER
from panoform.backend.perception.job import UNTRAINED, preview
from panoform.shared.engines import EngineSettings
from panoform.shared.maps import DEFAULT_MAPS, MAPS
from panoform.shared.protocol.errors import Cancelled, PanoramaError, SettingError


@pytest.fixture(scope="module")
def engine():
    return ModelCache()


@pytest.mark.slow
def test_maps_have_the_shapes_and_ranges_of_shared_maps(engine, reporter):
    result = perceive(engine, reporter)
    assert tuple(result.maps) == ALL
    for name, pixels in result.maps.items():
        assert pixels.dtype == np.float32
        assert pixels.shape == (HEIGHT, 2 * HEIGHT, MAPS[name].channels)
        assert np.isfinite(pixels).all()
    assert result.maps["distance"].min() > 0
    np.testing.assert_allclose(np.linalg.norm(result.maps["normal"], axis=-1), 1, atol=1e-5)
    for name in ("albedo", "roughness", "metallic", "semantic"):
        assert 0 <= result.maps[name].min() <= result.maps[name].max() <= 1
    assert result.panorama.shape == (HEIGHT, 2 * HEIGHT, 3)


@pytest.mark.slow
def test_info_records_the_settings_used(engine, reporter):
    info = perceive(engine, reporter, ["normal", "distance"], seed=7).info
    assert (info.engine, info.model, info.seed, info.num_inference_steps) == ("starter", "built in", 7, 1)
    assert tuple(info.maps) == ("distance", "normal")
    assert "turned" not in info.maps["normal"]
    assert (info.source_size, info.size) == ((48, 96), (HEIGHT, 2 * HEIGHT))
    assert info.exposure["exposure"] > 0
    assert info.dtype == "fp32"
    assert info.seconds.keys() == {"loading", "sampling", "decoding", "all"}
    assert info.seconds["all"] >= info.seconds["sampling"] + info.seconds["decoding"] > 0
    assert info.versions["torch"] == torch.__version__
    assert info.notice in ("", UNTRAINED)


@pytest.mark.slow
def test_srgb_is_not_exposed(engine, reporter):
    picture = (scene(HEIGHT) / 1000).clip(0, 1)
    result = perceive(engine, reporter, ["distance"], panorama=picture, encoding="srgb")
    assert result.info.exposure is None
    np.testing.assert_array_equal(result.panorama, picture)


@pytest.mark.slow
def test_map_depends_on_the_seed_and_not_on_other_requested_maps(engine, reporter):
    both = perceive(engine, reporter, ["distance", "metallic"])
    assert equal_maps(perceive(ModelCache(), reporter, ["distance", "metallic"]), both)
    assert np.array_equal(perceive(engine, reporter, ["metallic"]).maps["metallic"], both.maps["metallic"])


@pytest.mark.slow
def test_models_stay_loaded_for_each_precision(reporter):
    models = ModelCache()
    perceive(models, reporter, ["distance"])
    loaded = models.latest
    perceive(models, reporter, ["normal"], seed=3)
    assert models.latest is loaded
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="bf16"))
    assert models.latest is not loaded
    assert models.latest.pipeline.transformer.dtype == torch.bfloat16
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="fp32"))  # equals "auto" on a CPU
    assert models.latest is loaded, "both models fit in memory"
    rounded = perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="int8"))
    assert models.latest is not loaded
    assert rounded.info.dtype == "int8"


@pytest.mark.slow
def test_model_is_unloaded_if_the_next_one_does_not_fit(reporter, monkeypatch):
    models = ModelCache()
    perceive(models, reporter, ["distance"])
    loaded = models.latest
    monkeypatch.setattr("panoform.backend.models.device.memory", lambda _: (2**20, 2**34))
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="bf16"))
    perceive(models, reporter, ["distance"])
    assert models.latest is not loaded


@pytest.mark.slow
def test_replaced_weights_are_loaded_again(reporter, tmp_path):
    folder = shutil.copytree(STARTER, tmp_path / "starter")
    models, settings = ModelCache(), EngineSettings(model=str(folder))
    before = perceive(models, reporter, ["distance"], settings=settings)
    file = next((folder / "transformer").glob("*.safetensors"))
    save_file({key: tensor * 0.5 for key, tensor in load_file(file).items()}, file)
    assert not equal_maps(perceive(models, reporter, ["distance"], settings=settings), before)


@pytest.mark.slow
def test_loaded_model_has_a_label_and_device(reporter):
    models = ModelCache()
    assert models.latest is None
    perceive(models, reporter, ["distance"])
    assert models.latest.label == "Starter (built in, preview quality)"
    assert models.latest.device_label
    free, total, held = models.latest.device_memory()
    assert 0 < free < total
    assert 2**26 < held < total
    models.clear()
    assert models.latest is None


@pytest.mark.slow
def test_progress_is_monotonic_and_complete(engine, reporter):
    engine.clear()
    perceive(engine, reporter, DEFAULT_MAPS, num_inference_steps=3)
    fractions = [fraction for _, _, _, fraction, _ in reporter.reported]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    stages = [stage for stage, *_ in reporter.reported]
    assert stages[0] == "Loading Starter"
    # The starter runs all its steps in each of two passes.
    steps = [(step, 6) for step in range(1, 7)]
    sampled = "Distance, Normal, Albedo, Roughness, Metallic"
    assert [(step, of) for stage, step, of, *_ in reporter.reported if stage == sampled] == steps
    decoded = [stage for stage in stages if stage.startswith("Decoding ")]
    assert decoded == [f"Decoding {maps}" for maps in ("Distance", "Normal", "Albedo", "Roughness and Metallic")]
    left = [seconds for *_, fraction, seconds in reporter.reported if fraction]
    assert all(seconds >= 0 for seconds in left)
    assert left[-1] == 0


@pytest.mark.slow
def test_starter_processes_a_large_panorama_at_two_heights(engine, reporter):
    result = perceive(engine, reporter, ["distance"], height=320)
    assert {of for stage, _, of, *_ in reporter.reported if stage == "Distance"} == {4}, (
        "two passes at each of two heights"
    )
    assert "computed at 512 × 256, enlarged" in result.info.maps["distance"]
    assert result.maps["distance"].shape == (320, 640, 1)
    small = perceive(engine, reporter, ["distance"], height=128)
    assert "computed at" not in small.info.maps["distance"]


@pytest.mark.slow
def test_previews_are_reported_during_sampling_and_at_the_end(engine, reporter):
    result = perceive(engine, reporter, ["distance", "normal"], num_inference_steps=7)
    # After steps 3, 6, 9 and 12 (7 steps in each of two passes), and at the end.
    assert [name for name, _ in reporter.previews] == ["distance", "normal"] * 5
    for _, picture in reporter.previews:
        assert picture.dtype == np.uint8
        assert picture.shape[1] <= 256
        assert picture.shape[2] == 3
    np.testing.assert_array_equal(reporter.previews[-1][1], preview("normal", result.maps["normal"]))
    assert len({picture.tobytes() for _, picture in reporter.previews}) == 10


@pytest.mark.slow
def test_cancel_takes_effect_within_one_step(engine, reporter, stopping_reporter):
    before = perceive(engine, reporter, ["distance"])
    stopping = stopping_reporter(lambda stage, step: stage == "Distance, Normal" and step == 2)
    with pytest.raises(Cancelled):
        perceive(engine, stopping, ["distance", "normal"], num_inference_steps=50)
    assert stopping.reported[-1][:3] == ("Distance, Normal", 2, 100)
    assert equal_maps(perceive(engine, reporter, ["distance"]), before)


def test_cancel_takes_effect_within_a_step(engine, reporter, monkeypatch):
    """Between two blocks of the transformer; nothing of the step stays."""
    before = perceive(engine, reporter, ["distance"])
    checks = []

    def check_cancelled():
        checks.append(len(reporter.reported))
        if len(checks) == 12:
            raise Cancelled("Stopped.")

    reporter.reported.clear()
    monkeypatch.setattr(reporter, "check_cancelled", check_cancelled)
    with pytest.raises(Cancelled):
        perceive(engine, reporter, ["distance", "normal"], num_inference_steps=50)
    assert len(checks) == 12
    assert checks[-1] == checks[0], "in the first step"
    monkeypatch.undo()
    assert equal_maps(perceive(engine, reporter, ["distance"]), before)


# Invalid input


def test_panorama_that_is_not_two_to_one_is_rejected(engine, reporter):
    check_rejected(PanoramaError, "not 2:1", engine, reporter, panorama=np.ones((64, 64, 3), np.float32))


@pytest.mark.slow
def test_nan_is_rejected_or_repaired(engine, reporter):
    panorama = scene()
    panorama[0, 0] = np.nan
    check_rejected(PanoramaError, "1 not a number", engine, reporter, panorama=panorama)
    assert perceive(engine, reporter, ["distance"], panorama=panorama, repair=True).maps


def test_black_panorama_is_rejected(engine, reporter):
    check_rejected(PanoramaError, "black everywhere", engine, reporter, panorama=np.zeros((32, 64, 3), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("depth",)}, "No map is called 'depth'"),
        ({"names": ()}, "No map was asked for"),
        ({"num_inference_steps": 0}, "number of steps is 0"),
        ({"num_inference_steps": 201}, "number of steps is 201"),
        ({"guidance_scale": 31.0}, "Guidance is 31"),
        ({"guidance_scale": float("nan")}, "Guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4"),
        ({"height": 100}, "not a multiple of 16"),
        ({"height": 4096}, "height is 4096"),
        ({"settings": EngineSettings(engine="sdxl")}, "no engine called 'sdxl'"),
        ({"settings": EngineSettings(dtype="int4")}, "no dtype called 'int4'"),
        ({"settings": EngineSettings(device="tpu")}, "device"),
        ({"settings": EngineSettings(device="not a device")}, "no device called"),
        ({"settings": EngineSettings(device="cuda:9")}, "not on this computer"),
        ({"settings": EngineSettings(device="cpu", offload="model")}, "runs on the CPU"),
    ],
)
def test_invalid_setting_is_rejected(engine, reporter, options, message):
    check_rejected(SettingError, message, engine, reporter, **options)
