"""Export checkpoints as a starter folder."""

from __future__ import annotations

import json
from pathlib import Path

from ..evaluation import ground_truth
from ..evaluation.evaluate import MEAN_FILE, mean_by_latitude
from . import architecture, fit
from .architecture import TASKS
from .model import Perceiver
from .run import Run


def export(run: Run, folder: Path, *, trained: bool) -> None:
    """Write the averaged weights of both stages as a starter folder, and the training scenes' mean maps beside them.

    Raise WeightsError for a damaged checkpoint, FileNotFoundError for a missing one.
    """
    vae = fit.load_trained_vae(run)
    perceiver = Perceiver(architecture.create()[0])
    fit.load_average(run, "perceiver", perceiver)
    adapters = {
        (task, stream): perceiver.adapter_state(task, index)
        for task, streams in TASKS.items()
        for index, stream in enumerate(streams)
    }
    prompt = {
        "prompt_embeds": perceiver.prompt_embeds.detach(),
        "pooled_prompt_embeds": perceiver.pooled_prompt_embeds.detach(),
    }
    transformer = architecture.create()[0]
    transformer.load_state_dict(perceiver.base_state())
    panoform = architecture.PANOFORM | {"trained": trained, "heights": [run.height // 2, run.height]}
    architecture.save(folder, transformer, vae.cpu(), adapters, prompt, panoform)
    write_mean_maps(run.data[0].folder, run.data[0].height, folder / MEAN_FILE.name)


def write_mean_maps(data: Path, height: int, file: Path) -> None:
    """Write the mean maps of a folder of training scenes, in the format of evaluate.py's baselines."""
    scenes = (ground_truth.read_scene(scene) for scene in ground_truth.scenes(data, height))
    file.write_text(json.dumps(mean_by_latitude(scenes)) + "\n", encoding="utf-8")
