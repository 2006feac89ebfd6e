"""Recover the light of a picture that has no maps yet: the starter perceives it, and its maps measure the light."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...shared.engines import EngineSettings
from ...shared.jobs.generate import GenerateSettings, LightRecord
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from ...shared.protocol.errors import ModelError
from ..jobs.progress import ProgressReporter
from ..models.cache import ModelCache
from ..perception import job as perception
from . import inverse_tonemapping, solve
from .maps import HEIGHT, NAMES, light_maps
from .solve import Maps

STAGE = "Measuring Light"
#: Begins the notice of a panorama whose light could not be measured; the reason follows.
NOT_MEASURED = "Its light could not be measured, and was estimated from the picture alone:"


class Recovered(NamedTuple):
    """Linear light, (H, W, 3) float32, and how far it was measured; None where nothing was clipped, or no maps used."""

    light: np.ndarray
    record: LightRecord | None
    #: For the user: why there are no maps, though they were requested.
    notices: tuple[str, ...] = ()


class _Stage:
    """A ProgressReporter that reports the steps of perceiving as one more stage, and no pictures."""

    def __init__(self, reporter: ProgressReporter) -> None:
        self._reporter = reporter

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        # The picture is finished: the job's bar is full, and doesn't go back.
        self._reporter.progress(STAGE, step, of, 1.0, seconds_left)

    def preview(self, name: str, picture: np.ndarray) -> None:
        pass

    def check_cancelled(self) -> None:
        self._reporter.check_cancelled()


def of_picture(
    ldr: np.ndarray, settings: GenerateSettings, models: ModelCache, reporter: ProgressReporter
) -> Recovered:
    """Recover the light of an sRGB picture (H, W, 3) in [0, 1]; 1 is its white.

    `settings` tell whether maps measure it, and how strong suns are. Where nothing is clipped, nothing runs. Where the
    starter fails, the picture alone tells the light, so that a finished picture isn't lost.
    Raise PanoramaError where everything is clipped, and Cancelled from `reporter`.
    """
    linear, mask = inverse_tonemapping.clipped(ldr, settings.sun_strength, settings.sun_threshold)
    return of_light(linear, mask, ldr, settings, models, reporter)


def of_light(
    linear: np.ndarray, mask: np.ndarray, ldr: np.ndarray, settings: GenerateSettings, models: ModelCache,
    reporter: ProgressReporter,
) -> Recovered:  # fmt: skip
    """Do the same for linear light (H, W, 3) whose value is 1 where `mask` (H, W) is clipped; `ldr` shows it in sRGB.

    `linear` is changed.
    """
    measured = settings.measure_light and bool(mask.any())
    maps, notices = None, ()
    if measured:
        try:
            maps = _perceived(ldr, models, reporter)
        except ModelError as error:
            measured, notices = False, (f"{NOT_MEASURED} {error}",)
    solution = solve.recover(linear, mask, maps, settings.sun_strength)
    record = LightRecord(
        confidence=round(solution.confidence, 3), points=solution.points, spread=round(solution.spread, 3)
    )
    return Recovered(solution.light, record if measured else None, notices)


def _perceived(ldr: np.ndarray, models: ModelCache, reporter: ProgressReporter) -> Maps | None:
    """Return the starter's maps of an sRGB picture (H, W, 3). Raise ModelError, and Cancelled from `reporter`.

    It runs on the CPU, which takes seconds: on a GPU there may be no room beside the model that made the picture.
    """
    request = PerceiveRequest(
        panorama=ldr, encoding="srgb", engine=EngineSettings(engine="starter", device="cpu"),
        settings=PerceiveSettings(maps=NAMES, height=HEIGHT),
    )  # fmt: skip
    with models.keeping():
        return light_maps(perception.perceive(request, models, _Stage(reporter)).maps)
