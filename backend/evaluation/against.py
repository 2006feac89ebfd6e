"""Compare an engine's maps with those of the same seed at other settings: `panoform evaluate --against steps=50`.

So that a user can judge what an approximation changes: fewer steps, the first-block cache, a LoRA for few steps. The
metrics are those of `evaluate`, with the maps at the other settings in the place of the ground truth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings, check_perceive
from ...shared.protocol.errors import SettingError
from ..io import panoramas
from ..jobs.progress import ProgressReporter
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
    #: Settings → mean seconds per panorama, without loading.
    seconds: dict[str, float]


def changed(settings: PerceiveSettings, text: str) -> PerceiveSettings:
    """Return `settings` with the approximations that `text` names ("steps=8,cache=0.1"), and no others.

    Raise SettingError.
    """
    fields: dict[str, Any] = {"num_inference_steps": None, "cache": 0.0, "turbo": None, "turbo_scale": 1.0}
    for part in text.split(","):
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


def compare(
    files: Sequence[Path],
    engine: EngineSettings,
    settings: PerceiveSettings,
    against: str,
    variants: Sequence[str],
    reporter: ProgressReporter,
) -> Comparison:
    """Perceive each panorama at the settings `against` and at each of `variants` (`changed`), and compute the metrics.

    Raise SettingError, and the errors of reading panoramas and of `perceive`.
    """
    from ..perception.job import perceive

    names = list(dict.fromkeys([against, *variants]))
    if len(names) != 1 + len(variants):
        raise SettingError(f"{against} is compared with itself, or settings are given twice.", "Give each once.")
    chosen = {name: changed(settings, name) for name in names}
    models = ModelCache()
    metrics: dict[str, list[dict[str, float]]] = {name: [] for name in [*variants, against]}
    seconds: dict[str, list[float]] = {name: [] for name in metrics}
    for index, file in enumerate(files):
        height = settings.height or max(quality.height for quality in engine.spec.qualities.values())
        panorama, encoding, _, _ = panoramas.read_reduced(file, height)
        expected: evaluate.Maps = {}
        for number, name in enumerate(names):
            done = index + number / len(names)
            reporter.progress(f"{file.name}, {name}", index, len(files), done / len(files), None)
            request = PerceiveRequest(
                panorama=panorama, encoding=encoding, source=file.name, engine=engine, settings=chosen[name]
            )
            started = time.monotonic()
            perceived = perceive(request, models, evaluate.Silent(reporter))
            seconds[name].append(time.monotonic() - started - perceived.info.seconds["loading"])
            if name == against:
                expected = perceived.maps
                metrics[name].append(evaluate.truth_metrics(expected) if "distance" in expected else {})
            if name in variants:
                metrics[name].append(evaluate.measure(perceived.maps, expected))
    return Comparison(
        against=against,
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
