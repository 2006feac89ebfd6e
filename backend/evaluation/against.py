"""Compare an engine's maps with those of the same seed at other settings: `panoform evaluate --against steps=50`.

So that a user can judge what an approximation changes: fewer steps, the first-block cache, a LoRA for few steps. The
metrics are those of `evaluate`, with the maps at the other settings in the place of the ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings, check_perceive
from ...shared.protocol.errors import SettingError
from ..io import panoramas
from ..io.results import Perceived
from ..jobs.progress import ProgressReporter, Silent
from ..models import lora
from ..models.cache import ModelCache
from . import evaluate

#: Name of a setting on the command line → its field, and its type.
SETTINGS: dict[str, tuple[str, Any]] = {
    "steps": ("num_inference_steps", int),
    "cache": ("cache", float),
    "turbo": ("turbo", str),
    "turbo-scale": ("turbo_scale", float),
}


class Comparison(msgspec.Struct, frozen=True):
    """Mean metrics over panoramas of maps at some settings, compared with those at others."""

    #: The settings that are compared with, as "steps=50".
    against: str
    panoramas: int
    #: Settings → metric → value; of `against` only the seam step.
    columns: dict[str, dict[str, float]]
    #: Settings → mean seconds per panorama of sampling and decoding, without loading and compiling.
    seconds: dict[str, float]


def changed(settings: PerceiveSettings, text: str) -> PerceiveSettings:
    """Return `settings` with the approximations that `text` names ("steps=8,cache=0.1"), and no others.

    A path may have commas. Raise SettingError.
    """
    plain = PerceiveSettings(maps=settings.maps)
    fields: dict[str, Any] = {field: getattr(plain, field) for field, _ in SETTINGS.values()}
    for part in re.split(r",(?=[\w-]+=)", text):
        name, _, value = part.partition("=")
        if name not in SETTINGS:
            raise SettingError(f"There is no setting {name!r} to compare.", f"Use {', '.join(SETTINGS)}, as steps=50.")
        field, kind = SETTINGS[name]
        try:
            fields[field] = kind(value)
        except ValueError:
            raise SettingError(f"{part} has no number.", "Use, for example, steps=50.") from None
    result = msgspec.structs.replace(settings, **fields)
    check_perceive(result)
    return result


def named(settings: PerceiveSettings) -> str:
    """Return the approximations of settings that have steps, as `changed` reads them: "steps=8,cache=0.1"."""
    found = [f"steps={settings.num_inference_steps}"]
    found += [f"cache={settings.cache:g}"] if settings.cache else []
    found += [f"turbo={settings.turbo}", f"turbo-scale={settings.turbo_scale:g}"] if settings.turbo else []
    return ",".join(found)


def compare(
    files: Sequence[Path],
    engine: EngineSettings,
    against: PerceiveSettings,
    variants: Sequence[PerceiveSettings],
    reporter: ProgressReporter,
) -> Comparison:
    """Perceive each panorama at the settings `against` and at each of `variants`, and compute the metrics.

    They differ in their approximations only. Raise SettingError, AdapterError for a missing LoRA before anything is
    computed, and the errors of reading panoramas and of `perceive`.
    """
    from ..perception.job import perceive

    steps = engine.spec.qualities["standard"].num_inference_steps
    chosen: dict[str, PerceiveSettings] = {}
    for settings in (against, *variants):
        full = msgspec.structs.replace(settings, num_inference_steps=settings.num_inference_steps or steps)
        if named(full) in chosen:
            raise SettingError(f"{named(full)} is compared with itself, or given twice.", "Give each once.")
        chosen[named(full)] = full
    expected_name, *others = chosen
    for settings in chosen.values():
        if settings.turbo:
            lora.find(settings.turbo, reporter)
    height = against.height or max(quality.height for quality in engine.spec.qualities.values())
    models = ModelCache()

    def run(read: panoramas.Read, settings: PerceiveSettings) -> Perceived:
        request = PerceiveRequest(panorama=read[0], encoding=read[1], engine=engine, settings=settings)
        return perceive(request, models, Silent(reporter))

    # One step of each, so that LoRAs that don't fit are told at once, and compiling isn't timed.
    read = panoramas.read_reduced(files[0], height)
    for name, settings in chosen.items():
        reporter.progress(f"Preparing {name}", 0, len(files), 0.0, None)
        run(read, msgspec.structs.replace(settings, num_inference_steps=1))
    metrics: dict[str, list[dict[str, float]]] = {name: [] for name in [*others, expected_name]}
    seconds: dict[str, list[float]] = {name: [] for name in metrics}
    for index, file in enumerate(files):
        read = panoramas.read_reduced(file, height)
        expected: evaluate.Maps = {}
        for number, (name, settings) in enumerate(chosen.items()):
            done = index + number / len(chosen)
            reporter.progress(f"{file.name}, {name}", index, len(files), done / len(files), None)
            perceived = run(read, settings)
            seconds[name].append(perceived.info.seconds["sampling"] + perceived.info.seconds["decoding"])
            if name == expected_name:
                expected = perceived.maps
                metrics[name].append(evaluate.truth_metrics(expected) if "distance" in expected else {})
            else:
                metrics[name].append(evaluate.measure(perceived.maps, expected))
    return Comparison(
        against=expected_name,
        panoramas=len(files),
        columns={name: evaluate.means(rows) for name, rows in metrics.items()},
        seconds={name: float(np.mean(values)) for name, values in seconds.items()},
    )


def table(comparison: Comparison) -> str:
    """Format the comparison as a text table, as `evaluate.table`."""
    width = max(12, *(len(name) + 2 for name in comparison.columns))
    return "\n".join(
        [
            *evaluate.rows(comparison.columns, width),
            f"{'seconds':24}" + "".join(f"{comparison.seconds[name]:{width}.1f}" for name in comparison.columns),
            f"{comparison.panoramas} panoramas, compared with {comparison.against} of the same seed.",
        ]
    )
