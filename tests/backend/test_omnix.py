"""The pipeline against values that the reference implementation computed (tests/golden, see reference notes there)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from panoform.backend.pipelines.omnix import TASKS, OmniXPipeline

GOLDEN = Path(__file__).parents[1] / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())
GOLDEN_TASKS = [task for task in INDEX if task in TASKS]


@pytest.fixture(scope="module")
def pipe() -> OmniXPipeline:
    pipe = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux")
    for task in GOLDEN_TASKS:
        pipe.load_adapters(GOLDEN / "adapters", task)
    return pipe


def golden(task: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{task}.safetensors")


def arguments(task: str) -> dict:
    """What the reference was given, as the pipeline takes it."""
    values = golden(task)
    conditions = {name: values[f"condition.{name}"] for name in TASKS[task].conditions}
    return {
        "task": task,
        "conditions": conditions,
        "prompt_embeds": values["prompt_embeds"],
        "pooled_prompt_embeds": values["pooled_prompt_embeds"],
        "latents": values["noise"],
        "num_inference_steps": INDEX[task]["steps"],
        "guidance_scale": INDEX[task]["guidance_scale"],
    }


@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_every_step_agrees_with_the_reference(pipe, task):
    trace, timesteps = [], []

    def record(pipe, i, t, tensors):
        assert i == len(trace)
        trace.append(tensors["latents"])
        timesteps.append(float(t))

    result = pipe(**arguments(task), circular_encode=False, output_type="latent", callback_on_step_end=record).images

    expected = golden(task)
    torch.testing.assert_close(torch.cat(trace), expected["trace"], atol=1e-4, rtol=0)
    torch.testing.assert_close(result, expected["final_latents"][None], atol=1e-4, rtol=0)
    assert timesteps == pytest.approx(INDEX[task]["timesteps"])
    assert pipe.scheduler.sigmas.tolist() == pytest.approx(INDEX[task]["sigmas"])


@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_the_picture_agrees_with_the_reference(pipe, task):
    image = pipe(**arguments(task), circular_encode=False).images
    torch.testing.assert_close(image, golden(task)["image"][None], atol=1e-4, rtol=0)
