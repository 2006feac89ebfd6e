"""Compare an engine's maps with ground truth: `panoform evaluate`.

Metrics are means over scenes; within a scene all pixels have equal weight, as in the papers that OmniX compares with.
Distance, albedo, roughness and metallic are measured where there is a surface, the others everywhere. The engine is
compared with two baselines that ignore the picture: the mean map of the starter's training scenes, averaged over all
yaws (it depends on elevation only), and a constant. The ground truth has a seam step too, where an edge lies at the
panorama's border; it is listed for reference.

Maps are perceived at the engine's height, or that of the settings, and compared at the height of the ground truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.imaging import sphere
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from ..io.panoramas import resize
from ..jobs.progress import ProgressReporter, Silent
from ..models.cache import ModelCache
from ..perception.palette import PALETTE
from . import ground_truth

Maps = dict[str, np.ndarray]

#: The training scenes' mean by latitude: name → (rows, channels) from the zenith down. Distance is a mean of
#: logarithms; normals are in the axes of their column (sphere.column_frames).
MEAN_FILE = Path(__file__).parents[1] / "starter" / "mean_maps.json"

#: Metric → (unit, whether higher is better).
METRICS: dict[str, tuple[str, bool]] = {
    "distance AbsRel": ("", False),
    "distance δ1.25": ("", True),
    "normal mean": ("°", False),
    "normal median": ("°", False),
    "albedo PSNR": ("dB", True),
    "roughness PSNR": ("dB", True),
    "metallic PSNR": ("dB", True),
    "semantic accuracy": ("", True),
    "seam step": ("×", False),
}
#: Upper limit of PSNR, which is infinite for a perfect map.
_BEST_PSNR = 50.0


def measure(maps: Maps, truth: Maps) -> dict[str, float]:
    """Compute the metrics of one scene for the given `maps`; `truth` as ground_truth.read_scene returns it, same size.

    `truth` may have less: the maps that `maps` has, which are then compared everywhere where there is no distance.

    distance: median-scaled AbsRel and share within a factor of 1.25; normal: mean and median angle; seam step: how far
    distance jumps in logarithm from the last column to the first, over the mean jump between neighbouring columns of
    the same map.
    """
    metrics = {}
    shape = next(iter(truth.values())).shape[:2]
    surface = np.isfinite(truth["distance"][..., 0]) if "distance" in truth else np.ones(shape, bool)
    if "distance" in maps and surface.any():
        estimate, known = maps["distance"][surface, 0], truth["distance"][surface, 0]
        ratio = estimate / known
        ratio /= np.median(ratio)
        metrics["distance AbsRel"] = float(np.abs(ratio - 1).mean())
        metrics["distance δ1.25"] = float((np.maximum(ratio, 1 / ratio) < 1.25).mean())
        metrics["seam step"] = _seam(maps["distance"])
    if "normal" in maps:
        known = truth["normal"]
        facing = (known != 0).any(-1)
        cosine = (maps["normal"] * known).sum(-1) / np.maximum(np.linalg.norm(known, axis=-1), 1e-6)
        angle = np.degrees(np.arccos(np.clip(cosine[facing], -1, 1)))
        if facing.any():
            metrics |= {"normal mean": float(angle.mean()), "normal median": float(np.median(angle))}
    for name in ("albedo", "roughness", "metallic"):
        if name in maps and surface.any():
            error = float(np.square(maps[name][surface] - truth[name][surface]).mean())
            metrics[f"{name} PSNR"] = min(_BEST_PSNR, -10 * np.log10(max(error, 1e-12)))
    if "semantic" in maps:
        metrics["semantic accuracy"] = float((_classes(maps["semantic"]) == _classes(truth["semantic"])).mean())
    return metrics


def truth_metrics(truth: Maps) -> dict[str, float]:
    """Return the seam step of the true distances, with the sky as far as the farthest surface."""
    distance = truth["distance"]
    finite = np.isfinite(distance)
    if not finite.any():
        return {}
    return {"seam step": _seam(np.where(finite, distance, distance[finite].max()))}


def _seam(distance: np.ndarray) -> float:
    steps = np.abs(np.diff(np.log(distance[..., 0]), axis=1, append=np.log(distance[:, :1, 0])))
    inside = float(steps[:, :-1].mean())
    return float(steps[:, -1].mean()) / inside if inside else 1.0


def fitted(maps: Maps, height: int) -> Maps:
    """Resize the maps to (height, 2·height): block means where that divides their size, otherwise interpolation.

    Distances are averaged as logarithms, and normals renormalised.
    """

    def at(pixels: np.ndarray) -> np.ndarray:
        rows = pixels.shape[0]
        if rows % height:
            return resize(pixels, height)
        size = rows // height
        return pixels.reshape(height, size, 2 * height, size, -1).mean((1, 3))

    out = {name: np.exp(at(np.log(pixels))) if name == "distance" else at(pixels) for name, pixels in maps.items()}
    if "normal" in out:
        out["normal"] /= np.maximum(np.linalg.norm(out["normal"], axis=-1, keepdims=True), 1e-6)
    return out


def _classes(colours: np.ndarray) -> np.ndarray:
    palette = np.array(list(PALETTE.values()), np.float32) / 255
    return np.square(colours[..., None, :] - palette).sum(-1).argmin(-1)


# Baselines


def mean_by_latitude(scenes: Iterable[Maps], rows: int = 32) -> dict[str, list[list[float]]]:
    """Return the content of MEAN_FILE from the maps of training scenes."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for truth in scenes:
        height, width = truth["distance"].shape[:2]
        surface = np.isfinite(truth["distance"])
        everywhere = np.ones_like(surface)
        turned = np.einsum("wij,hwj->hwi", sphere.column_frames(width), truth["normal"])
        parts = {
            "distance": (np.log(np.where(surface, truth["distance"], 1)), surface),
            "normal": (turned, everywhere),
            "semantic": (truth["semantic"], everywhere),
        } | {name: (truth[name], surface) for name in ("albedo", "roughness", "metallic")}
        for name, (pixels, mask) in parts.items():
            shape = (rows, height // rows * width, -1)
            sums[name] = sums.get(name, 0) + (pixels * mask).reshape(shape).sum(1)
            counts[name] = counts.get(name, 0) + mask.reshape(shape).sum(1)
    means = {name: np.asarray(sums[name] / np.maximum(counts[name], 1)) for name in sums}
    return {name: values.round(4).tolist() for name, values in means.items()}


def baselines(height: int) -> dict[str, Maps]:
    """Return the baselines "mean map" and "constant" at (height, 2·height)."""
    rows = {name: np.array(values, np.float32) for name, values in json.loads(MEAN_FILE.read_text("utf-8")).items()}
    weight = sphere.solid_angles(len(rows["distance"]), 2 * len(rows["distance"]))

    def spread(values: np.ndarray) -> np.ndarray:
        at = (np.arange(height) + 0.5) / height * len(values) - 0.5
        lines = [np.interp(at, np.arange(len(values)), values[:, channel]) for channel in range(values.shape[1])]
        return np.broadcast_to(np.stack(lines, -1)[:, None], (height, 2 * height, values.shape[1])).astype(np.float32)

    def finish(maps: Maps) -> Maps:
        length = np.linalg.norm(maps["normal"], axis=-1, keepdims=True)
        return maps | {"distance": np.exp(maps["distance"]), "normal": maps["normal"] / np.maximum(length, 1e-6)}

    mean = {name: spread(values) for name, values in rows.items()}
    mean["normal"] = np.einsum("wji,hwj->hwi", sphere.column_frames(2 * height), mean["normal"])
    constant = {
        name: spread(np.broadcast_to((values * weight).sum(0) / weight.sum(), (2, values.shape[1])))
        for name, values in rows.items()
    }
    # Averaged over all yaws, only the vertical component of the mean normal remains.
    constant["normal"] = np.broadcast_to(np.array([0, 0, 1], np.float32), mean["normal"].shape)
    return {"mean map": finish(mean), "constant": finish(constant)}


# The table


class Evaluation(msgspec.Struct, frozen=True):
    """Mean metrics of an engine and the baselines over a folder of ground truth."""

    data: str
    scenes: int
    #: (height, width) of the ground truth, and of the maps before resizing.
    size: tuple[int, int]
    perceived: tuple[int, int]
    #: Column ("starter", "mean map", "constant", "truth") → metric → value; for the truth only the seam step.
    columns: dict[str, dict[str, float]]
    #: Mean seconds per panorama, without loading.
    seconds: float
    notice: str


def evaluate(
    folder: Path,
    engine: EngineSettings,
    settings: PerceiveSettings,
    reporter: ProgressReporter,
    limit: int | None = None,
) -> Evaluation:
    """Perceive every scene of `folder` (the first `limit`), and compute the metrics.

    Raise InputError if the folder doesn't have the layout of ground_truth.py, and the errors of `perceive`.
    """
    from ..perception.job import perceive

    found = ground_truth.scenes(folder)[:limit]
    models = ModelCache()
    metrics: dict[str, list[dict[str, float]]] = {engine.engine: [], "mean map": [], "constant": [], "truth": []}
    seconds, notice, size, perceived_size = [], "", (0, 0), (0, 0)
    for index, scene in enumerate(found):
        reporter.progress(f"Scene {scene.name}", index, len(found), index / len(found), None)
        truth = ground_truth.read_scene(scene)
        size = (truth["panorama"].shape[0], truth["panorama"].shape[1])
        started = time.monotonic()
        request = PerceiveRequest(
            panorama=truth["panorama"], encoding="linear", source=scene.name, engine=engine, settings=settings
        )
        perceived = perceive(request, models, Silent(reporter))
        seconds.append(time.monotonic() - started - perceived.info.seconds["loading"])
        notice = perceived.info.notice
        perceived_size = perceived.info.size
        metrics[engine.engine].append(measure(fitted(perceived.maps, size[0]), truth))
        for name, maps in baselines(size[0]).items():
            metrics[name].append(measure({key: maps[key] for key in perceived.maps}, truth))
        metrics["truth"].append(truth_metrics(truth) if "distance" in perceived.maps else {})
    return Evaluation(
        str(folder),
        len(found),
        size,
        perceived_size,
        {name: means(rows) for name, rows in metrics.items()},
        float(np.mean(seconds)),
        notice,
    )


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the scenes that have it."""
    return {
        name: float(np.mean([row[name] for row in rows if name in row]))
        for name in METRICS
        if any(name in row for row in rows)
    }


def rows(columns: dict[str, dict[str, float]], width: int = 12) -> list[str]:
    """Return the lines of a table of metrics: those that the first column has, a column of `width` for each."""
    names = list(columns)
    lines = [f"{'':24}" + "".join(f"{name:>{width}}" for name in names)]
    for metric, (unit, more) in METRICS.items():
        values = [columns[name].get(metric) for name in names]
        if values[0] is None:
            continue
        label = f"{metric}{f' ({unit})' if unit else ''} {'>' if more else '<'}"
        cells = (f"{value:{width}.3f}" if value is not None else f"{'':{width}}" for value in values)
        lines.append(f"{label:24}" + "".join(cells))
    return lines


def table(evaluation: Evaluation) -> str:
    """Format the evaluation as a text table; ">" marks metrics where higher is better, "<" where lower is."""
    lines = rows(evaluation.columns)
    height, width = evaluation.size
    perceived = evaluation.perceived
    lines.append(
        f"{evaluation.scenes} scenes at {width} × {height}, perceived at {perceived[1]} × {perceived[0]}, "
        f"{evaluation.seconds:.1f} s each. {evaluation.notice}"
    )
    return "\n".join(lines)
