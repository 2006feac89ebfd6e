"""Limits of the settings."""

import pytest

from panoform.shared import engines
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveSettings, check_perceive
from panoform.shared.protocol.errors import SettingError


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("quality", ["draft", "standard", "best"])
def test_every_quality_preset_is_valid(engine, quality):
    preset = engines.ENGINES[engine].qualities[quality]
    engines.check_engine(EngineSettings(engine=engine))
    assert preset.height % 16 == 0
    steps, height = preset.num_inference_steps, preset.height
    check_perceive(PerceiveSettings(maps=("distance",), num_inference_steps=steps, height=height))


@pytest.mark.parametrize("capability", ["perceive", "outpaint", "text_to_panorama", "edit", "texture"])
def test_default_engine_has_the_capability(capability):
    assert engines.ENGINES[engines.default_engine(capability)].can(capability)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "dreams"}, "no engine called 'dreams'. Choose one of starter, flux, projection, multiview"),
        ({"dtype": "int3"}, "no dtype called 'int3'. Choose one of auto, bf16, fp16, fp32, int8, nf4"),
        ({"dtype": "int8", "engine": "multiview"}, "multiview has no int8. Choose auto, bf16, fp16 or fp32"),
        ({"memory": 0.0}, "The memory is 0 GB. Give a number above 0"),
        ({"memory": float("nan")}, "The memory is nan GB"),
        ({"compile": True, "engine": "multiview"}, "multiview has no memory budget, attention or compiled blocks"),
        ({"offload": "moon"}, "no offload mode called 'moon'. Choose one of auto, none, model, sequential"),
    ],
)
def test_unknown_engine_settings_are_rejected(settings, words):
    with pytest.raises(SettingError, match=words):
        engines.check_engine(EngineSettings(**settings))


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "below", "above"),
    [
        ("seed", 0, 4294967295, -1, 4294967296),
        ("num_inference_steps", 1, 200, 0, 201),
        ("guidance_scale", 0.0, 30.0, -0.1, 30.1),
        ("height", 64, 2048, 48, 2064),
    ],
)
def test_numbers_out_of_range_are_rejected(name, lowest, highest, below, above):
    for value in (lowest, highest):
        check_perceive(PerceiveSettings(maps=("distance",), **{name: value}))
    for value in (below, above, float("nan")):
        with pytest.raises(SettingError, match="must lie between"):
            check_perceive(PerceiveSettings(maps=("distance",), **{name: value}))


def test_error_for_height_names_the_nearest_multiples_of_16():
    with pytest.raises(SettingError, match="Use 496 or 512"):
        check_perceive(PerceiveSettings(maps=("distance",), height=500))


def test_engine_of_another_capability_is_refused():
    engines.check_engine(EngineSettings(engine="multiview"), "texture")
    with pytest.raises(SettingError, match=r"multiview can't do this\. Choose starter or flux"):
        engines.check_engine(EngineSettings(engine="multiview"), "perceive", "outpaint")
    assert engines.engines_for("edit", "texture") == ["flux", "projection", "multiview"]
