"""Accuracy of the starter on scenes that it was not trained on (tests/scenes), compared with the baselines.

Two are held-out scenes of the training generator, two of the second one.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from panoform.backend.evaluation import evaluate, ground_truth
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import checkpoints
from panoform.backend.perception.job import perceive
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.maps import MAPS

pytestmark = pytest.mark.slow

SCENES = Path(__file__).parents[2] / "scenes"
#: Task → the task whose adapters replace its own.
SWAP = {
    "rgb_to_depth": "rgb_to_normal",
    "rgb_to_normal": "rgb_to_albedo",
    "rgb_to_albedo": "rgb_to_pbr",
    "rgb_to_pbr": "rgb_to_semantic",
    "rgb_to_semantic": "rgb_to_depth",
}
FILE = "pytorch_lora_weights.safetensors"
#: Height and scenes of drafts, which also show the effect of the adapters, in a tenth of the time.
DRAFT = 128
ONE_OF_EACH = ("room", "second-arcade")


@pytest.fixture(scope="module")
def measure(stopping_reporter) -> Callable[..., dict[str, dict[str, float]]]:
    """Return a function that evaluates the starter: column → metric → value.

    It takes a folder of adapters and a height, by default the starter's own, and a folder of scenes.
    """

    def measure(
        adapters: Path | None = None, height: int | None = None, scenes: Path = SCENES
    ) -> dict[str, dict[str, float]]:
        engine = EngineSettings(device="cpu", adapters=str(adapters) if adapters else None)
        settings = PerceiveSettings(maps=tuple(MAPS), height=height)
        return evaluate.evaluate(scenes, engine, settings, stopping_reporter()).columns

    return measure


@pytest.fixture(scope="module")
def columns(measure) -> dict[str, dict[str, float]]:
    return measure()


@pytest.mark.parametrize(
    ("figure", "share"), [("distance AbsRel", 0.32), ("normal mean", 0.5), ("normal median", 0.25)]
)
@pytest.mark.parametrize("baseline", ["mean map", "constant"])
def test_errors_are_below_the_baselines(columns, figure, share, baseline):
    assert columns["starter"][figure] < share * columns[baseline][figure]


@pytest.mark.parametrize(("figure", "more"), [("distance δ1.25", 0.35), ("albedo PSNR", 5.5), ("roughness PSNR", 1.2)])
@pytest.mark.parametrize("baseline", ["mean map", "constant"])
def test_scores_are_above_the_baselines(columns, figure, more, baseline):
    assert columns["starter"][figure] > columns[baseline][figure] + more


def test_semantic_accuracy_is_above_the_baseline(columns):
    assert columns["starter"]["semantic accuracy"] > columns["mean map"]["semantic accuracy"] + 0.48


def test_distance_is_continuous_at_the_seam(stopping_reporter):
    """The step of distance at the seam is as large as at the same place in the panorama rotated by an eighth."""
    engine, models = EngineSettings(device="cpu"), ModelCache()
    settings = PerceiveSettings(maps=("distance",), height=DRAFT)

    def jump(panorama: np.ndarray, eighths: int) -> float:
        request = PerceiveRequest(panorama=panorama, encoding="linear", engine=engine, settings=settings)
        made = perceive(request, models, stopping_reporter()).maps["distance"][..., 0]
        column = eighths * made.shape[1] // 8
        return float(np.abs(np.log(made[:, column] / made[:, column - 1])).mean())

    cut, inside = 0.0, 0.0
    for scene in ground_truth.scenes(SCENES):
        panorama = ground_truth.read_scene(scene)["panorama"]
        cut += jump(panorama, 0)
        inside += jump(np.roll(panorama, panorama.shape[1] // 8, axis=1), 1)
    # With a visible seam, without circular padding, the step is ten times as large.
    assert cut < 1.2 * inside


@pytest.fixture(scope="module")
def draft(measure, tmp_path_factory) -> Callable[[Path | None], dict[str, float]]:
    """Return a function that measures the starter's drafts of one scene of each generator, by a folder of adapters."""
    scenes = tmp_path_factory.mktemp("scenes")
    for name in ONE_OF_EACH:
        shutil.copytree(SCENES / name, scenes / name)

    def draft(adapters: Path | None) -> dict[str, float]:
        return measure(adapters, DRAFT, scenes)["starter"]

    return draft


@pytest.fixture(scope="module")
def drafts(draft) -> dict[str, float]:
    """Return the metrics with the starter's own adapters."""
    return draft(None)


def assert_degraded(figures: dict[str, float], whole: dict[str, float]) -> None:
    assert figures["distance δ1.25"] < whole["distance δ1.25"] - 0.05
    assert figures["normal mean"] > 1.5 * whole["normal mean"]
    assert figures["albedo PSNR"] < whole["albedo PSNR"] - 2
    assert figures["semantic accuracy"] < 0.5 * whole["semantic accuracy"]


def test_adapters_of_another_task_degrade_the_maps(draft, drafts, tmp_path):
    for task, other in SWAP.items():
        for stream, file in zip(weights_of(task), weights_of(other).values(), strict=True):
            (tmp_path / task / stream).mkdir(parents=True)
            shutil.copy(file, tmp_path / task / stream / FILE)
    assert_degraded(draft(tmp_path), drafts)


def test_zero_adapters_degrade_the_maps(draft, drafts, tmp_path):
    for task in SWAP:
        for stream, file in weights_of(task).items():
            state = {key: value * 0 if "lora_B" in key else value for key, value in load_file(file).items()}
            (tmp_path / task / stream).mkdir(parents=True)
            save_file(state, tmp_path / task / stream / FILE)
    assert_degraded(draft(tmp_path), drafts)


def weights_of(task: str) -> dict[str, Path]:
    """Return stream → file of the starter's adapter, the condition's first."""
    folder = checkpoints.STARTER / "adapters" / task
    return {
        stream: folder / stream / FILE for stream in ("rgb", *(p.name for p in folder.iterdir() if p.name != "rgb"))
    }
