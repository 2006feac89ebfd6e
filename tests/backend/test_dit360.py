"""DiT360 against the reference's own values, and what the reference lacks: a closed seam, edits, windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from panoform.backend.pipelines.dit360 import DiT360Pipeline
from panoform.shared.errors import AdapterError, PanoramaError, SettingError, WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
LORA = GOLDEN / "adapters" / "dit360" / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def plain() -> DiT360Pipeline:
    pipe = DiT360Pipeline.from_pretrained(GOLDEN / "tiny-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(plain: DiT360Pipeline):
    plain.load_lora_weights(LORA)
    yield plain
    plain.unload_lora_weights()


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "dit360_text_to_pano.safetensors")


@pytest.fixture(scope="module")
def call(golden) -> dict:
    index = json.loads((GOLDEN / "index.json").read_text())["dit360_text_to_pano"]
    return {
        "prompt_embeds": golden["prompt_embeds"],
        "pooled_prompt_embeds": golden["pooled_prompt_embeds"],
        "latents": golden["noise"],
        "height": index["height"],
        "width": index["width"],
        "num_inference_steps": index["steps"],
        "guidance_scale": index["guidance_scale"],
        "output_type": "latent",
    }


def test_meets_the_reference(pipe, golden, call):
    trace = []
    final = pipe(
        **call, resync_padding=False, callback_on_step_end=lambda p, i, t, tensors: trace.append(tensors["latents"])
    ).images
    assert (torch.stack(trace) - golden["trace_packed"]).abs().max() < 1e-4
    assert (final - golden["final_latents"]).abs().max() < 1e-4
