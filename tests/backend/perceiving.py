"""Requests for perception as the tests make them."""

import numpy as np
import pytest

from panoform.backend.perception import job
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.maps import MAPS

ALL = tuple(MAPS)
HEIGHT = 64


def scene(height=48, seed=0):
    """Return linear light (height, 2·height, 3), smooth also across the seam, with a sun."""
    lon = (np.arange(2 * height) + 0.5) / height * np.pi
    lat = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
    rng = np.random.default_rng(seed)
    light = np.ones((height, 2 * height, 3))
    for wave in range(1, 5):
        amplitude, phase = rng.uniform(-0.3, 0.3, 3), rng.uniform(0, 6, 3)
        light += amplitude * np.sin(wave * lon[None, :, None] + phase) * np.cos(wave * lat)[..., None]
    light = np.exp(light)
    light[height // 3, height // 2] = 5000
    return light.astype(np.float32)


def perceive(engine, reporter, names=ALL, panorama=None, encoding="linear", settings=None, **options):
    request = PerceiveRequest(
        panorama=scene() if panorama is None else panorama,
        encoding=encoding, source="scene", engine=settings or EngineSettings(),
        settings=PerceiveSettings(maps=names, **{"height": HEIGHT} | options),
    )  # fmt: skip
    return job.perceive(request, engine, reporter)


def equal_maps(a, b):
    return a.maps.keys() == b.maps.keys() and all(np.array_equal(a.maps[name], b.maps[name]) for name in a.maps)


def check_rejected(kind, message, engine, reporter, **options):
    with pytest.raises(kind, match=message) as caught:
        perceive(engine, reporter, **options)
    assert caught.value.hint
    return caught.value
