"""The starter against Cycles' ground truth of scenes that it never saw (tests/scenes), beside the baselines.

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
#: Task → whose adapters it gets in the swap.
SWAP = {
    "rgb_to_depth": "rgb_to_normal",
    "rgb_to_normal": "rgb_to_albedo",
    "rgb_to_albedo": "rgb_to_pbr",
    "rgb_to_pbr": "rgb_to_semantic",
    "rgb_to_semantic": "rgb_to_depth",
}
FILE = "pytorch_lora_weights.safetensors"
#: Height of drafts: what it is without its adapters shows in them too, in a fifth of the time.
DRAFT = 128


@pytest.fixture(scope="module")
def measured(stopping_reporter) -> Callable[..., dict[str, dict[str, float]]]:
    """measured(adapters, height) → column → figure → value, of the starter with these adapters, maps of that height.

    Left out: its own adapters, its own height.
    """

    def measured(adapters: Path | None = None, height: int | None = None) -> dict[str, dict[str, float]]:
        engine = EngineSettings(device="cpu", adapters=str(adapters) if adapters else None)
        settings = PerceiveSettings(maps=tuple(MAPS), height=height)
        return evaluate.evaluate(SCENES, engine, settings, stopping_reporter()).columns

    return measured


@pytest.fixture(scope="module")
def columns(measured) -> dict[str, dict[str, float]]:
    return measured()


@pytest.mark.parametrize(
    ("figure", "share"), [("distance AbsRel", 0.32), ("normal mean", 0.5), ("normal median", 0.25)]
)
@pytest.mark.parametrize("baseline", ["mean map", "constant"])
def test_errs_less_than_a_baseline(columns, figure, share, baseline):
    assert columns["starter"][figure] < share * columns[baseline][figure]


@pytest.mark.parametrize(("figure", "more"), [("distance δ1.25", 0.35), ("albedo PSNR", 5.5), ("roughness PSNR", 1.2)])
@pytest.mark.parametrize("baseline", ["mean map", "constant"])
def test_scores_more_than_a_baseline(columns, figure, more, baseline):
    assert columns["starter"][figure] > columns[baseline][figure] + more


def test_names_what_it_sees(columns):
    assert columns["starter"]["semantic accuracy"] > columns["mean map"]["semantic accuracy"] + 0.48


def test_the_seam_is_as_the_same_place_amid_the_panorama(stopping_reporter):
    """Where a panorama is cut, distance jumps no more than at that place in the panorama turned by an eighth."""
    engine, models, settings = EngineSettings(device="cpu"), ModelCache(), PerceiveSettings(maps=("distance",))

    def jump(panorama: np.ndarray, eighths: int) -> float:
        request = PerceiveRequest(panorama=panorama, encoding="linear", engine=engine, settings=settings)
        made = perceive(request, models, stopping_reporter()).maps["distance"][..., 0]
        column = eighths * made.shape[1] // 8
        return float(np.abs(np.log(made[:, column] / made[:, column - 1])).mean())

    cut, amid = 0.0, 0.0
    for scene in ground_truth.scenes(SCENES):
        panorama = ground_truth.read_scene(scene)["panorama"]
        cut += jump(panorama, 0)
        amid += jump(np.roll(panorama, panorama.shape[1] // 8, axis=1), 1)
    # A torn map's step is ten times an untorn one's.
    assert cut < 1.2 * amid


@pytest.fixture(scope="module")
def drafts(measured) -> dict[str, float]:
    """Figures of the starter's drafts."""
    return measured(height=DRAFT)["starter"]


def collapsed(figures: dict[str, float], whole: dict[str, float]) -> None:
    assert figures["distance δ1.25"] < whole["distance δ1.25"] - 0.05
    assert figures["normal mean"] > 1.5 * whole["normal mean"]
    assert figures["albedo PSNR"] < whole["albedo PSNR"] - 2
    assert figures["semantic accuracy"] < 0.5 * whole["semantic accuracy"]


def test_another_tasks_adapters_make_it_collapse(measured, drafts, tmp_path):
    for task, other in SWAP.items():
        for stream, file in zip(weights_of(task), weights_of(other).values(), strict=True):
            (tmp_path / task / stream).mkdir(parents=True)
            shutil.copy(file, tmp_path / task / stream / FILE)
    collapsed(measured(tmp_path, DRAFT)["starter"], drafts)


def test_no_adapters_make_it_collapse(measured, drafts, tmp_path):
    for task in SWAP:
        for stream, file in weights_of(task).items():
            state = {key: value * 0 if "lora_B" in key else value for key, value in load_file(file).items()}
            (tmp_path / task / stream).mkdir(parents=True)
            save_file(state, tmp_path / task / stream / FILE)
    collapsed(measured(tmp_path, DRAFT)["starter"], drafts)


def weights_of(task: str) -> dict[str, Path]:
    """Stream → the starter's adapter, the condition's first."""
    folder = checkpoints.STARTER / "adapters" / task
    return {
        stream: folder / stream / FILE for stream in ("rgb", *(p.name for p in folder.iterdir() if p.name != "rgb"))
    }
