"""The light of pictures without maps: what the starter's maps add, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from panoform.backend.lighting import inverse_tonemapping, recovery
from panoform.backend.models import device
from panoform.backend.models.cache import ModelCache
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import linear_from_srgb
from panoform.shared.jobs.generate import GenerateSettings
from panoform.shared.protocol.errors import Cancelled, DeviceMemoryError, WeightsError


def sunny() -> np.ndarray:
    """Return an sRGB picture (128, 256, 3) of a blue sky with a white disc over grey ground."""
    rays = sphere.directions(128, 256)
    up = rays[..., 2:]
    picture = np.where(up > 0, [0.4, 0.6, 0.8] + 0.15 * (1 - up), 0.3 + 0.1 * rays[..., :1])
    picture[rays @ np.array([0.6, 0.0, 0.8]) > np.cos(np.radians(4))] = 1.0
    return picture.astype(np.float32)


class Loaded:
    """A model of a ModelCache."""

    label = device_label = "toy"

    def device_memory(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def leave_device(self) -> bool:
        return False


def test_where_nothing_is_clipped_nothing_runs(reporter) -> None:
    picture, models = sunny() * np.float32(0.9), ModelCache()
    light, record, notices = recovery.of_picture(picture, GenerateSettings(), models, reporter)
    np.testing.assert_array_equal(light, linear_from_srgb(picture.astype(np.float64)).astype(np.float32))
    assert (record, notices, models.latest, reporter.reported) == (None, (), None, [])


def test_without_maps_it_is_the_estimate_from_the_picture(reporter) -> None:
    picture, models = sunny(), ModelCache()
    settings = GenerateSettings(measure_light=False, sun_strength=0.5)
    light, record, notices = recovery.of_picture(picture, settings, models, reporter)
    np.testing.assert_array_equal(light, inverse_tonemapping.reconstruct(picture, sun_strength=0.5))
    assert (record, notices, models.latest) == (None, (), None)


@pytest.mark.slow
def test_the_starter_measures_light(reporter, monkeypatch) -> None:
    """The model that made the picture stays in memory, and the one used last, also where memory is short."""
    picture, models, maker = sunny(), ModelCache(), Loaded()
    models.get("maker", lambda: maker, lambda: True)
    monkeypatch.setattr(device, "memory", lambda *_: (2**20, 2**30))
    light, record, notices = recovery.of_picture(picture, GenerateSettings(), models, reporter)
    assert models.latest is maker
    assert record is not None
    assert not notices
    assert record.points > 100
    assert 0 < record.confidence < 1
    kept = ~(picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1)
    np.testing.assert_array_equal(light[kept], linear_from_srgb(picture.astype(np.float64))[kept].astype("f4"))
    assert light[~kept].min() > linear_from_srgb(np.array(inverse_tonemapping.THRESHOLD))
    stages = [(stage, fraction) for stage, _, of, fraction, _ in reporter.reported if of]
    assert set(stages) == {(recovery.STAGE, 1.0)}
    assert not reporter.previews


@pytest.mark.parametrize("error", [DeviceMemoryError, WeightsError])
def test_where_the_starter_fails_the_picture_alone_tells(reporter, monkeypatch, error) -> None:
    def fail(*_):
        raise error("The starter is damaged.", "Install it again.")

    monkeypatch.setattr(recovery.perception, "perceive", fail)
    light, record, notices = recovery.of_picture(sunny(), GenerateSettings(), ModelCache(), reporter)
    np.testing.assert_array_equal(light, inverse_tonemapping.reconstruct(sunny()))
    assert record is None
    assert notices == (f"{recovery.NOT_MEASURED} The starter is damaged. Install it again.",)


def test_cancel_stops_it(stopping_reporter) -> None:
    reporter = stopping_reporter(lambda stage, _: stage == recovery.STAGE)
    with pytest.raises(Cancelled):
        recovery.of_picture(sunny(), GenerateSettings(), ModelCache(), reporter)
