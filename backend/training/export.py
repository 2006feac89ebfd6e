"""Export checkpoints as a starter folder."""

from __future__ import annotations

import json
from pathlib import Path

from ..evaluation import ground_truth
from ..evaluation.evaluate import MEAN_FILE, mean_by_latitude
from . import architecture, fit, output
from .architecture import TASKS
from .model import Perceiver
from .run import Run


def export(run: Run, folder: Path, *, trained: bool, overwrite: bool = False) -> None:
    """Write the averaged weights of both stages as a starter folder, and the training scenes' mean maps beside them.

    Existing files are replaced only if `overwrite` is set. Raise WeightsError for a damaged checkpoint,
    FileNotFoundError for a missing one, OutputError.
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
    with output.folder(folder, overwrite=overwrite) as draft:
        architecture.save(draft, transformer, vae.cpu(), adapters, prompt, panoform)
        write_mean_maps(run.data[0].folder, run.data[0].height, draft / MEAN_FILE.name)


def write_mean_maps(data: Path, height: int, file: Path, *, overwrite: bool = False) -> None:
    """Write the mean maps of a folder of training scenes, in the format of evaluate.py's baselines.

    An existing file is replaced only if `overwrite` is set. Raise OutputError.
    """
    scenes = (ground_truth.read_scene(scene) for scene in ground_truth.scenes(data, height))
    text = json.dumps(mean_by_latitude(scenes)) + "\n"
    with output.file(file, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8")
