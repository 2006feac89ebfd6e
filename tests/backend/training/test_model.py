"""The training model compared with the pipeline."""

from pathlib import Path

import pytest
import torch

from panoform.backend.pipelines.omnix import OmniXPipeline
from panoform.backend.training import architecture
from panoform.backend.training.model import Perceiver


@pytest.fixture(scope="module")
def perceiver() -> Perceiver:
    """Create a model with non-zero adapters and modulation, and weights representable in float16."""
    torch.manual_seed(1)
    model = Perceiver(architecture.create()[0]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".B." in name or "norm" in name or "proj_out" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            parameter.copy_(parameter.half())
    return model


@pytest.fixture(scope="module")
def pipeline(perceiver, tmp_path_factory) -> OmniXPipeline:
    folder = tmp_path_factory.mktemp("starter")
    transformer, vae = architecture.create()
    transformer.load_state_dict(perceiver.base_state())
    adapters = {
        (task, stream): perceiver.adapter_state(task, index)
        for task, streams in architecture.TASKS.items()
        for index, stream in enumerate(streams)
    }
    prompt = {"prompt_embeds": perceiver.prompt_embeds, "pooled_prompt_embeds": perceiver.pooled_prompt_embeds}
    prompt = {key: value.detach() for key, value in prompt.items()}
    architecture.save(folder, transformer, vae, adapters, prompt, architecture.PANOFORM)
    pipe = OmniXPipeline.from_pretrained(folder).to(torch.float32)
    pipe.position_rows = architecture.POSITION_ROWS
    pipe.set_progress_bar_config(disable=True)
    for task in ("rgb_to_depth", "rgb_to_albedo"):
        pipe.load_adapters(folder / "adapters", task)
    return pipe


def run_pipeline(pipeline, perceiver, task, latents):
    """Return the target's latents (1, C, h, w) from the condition's."""
    return pipeline(
        task,
        condition_latents={"rgb": latents},
        prompt_embeds=perceiver.prompt_embeds.detach(),
        pooled_prompt_embeds=perceiver.pooled_prompt_embeds.detach(),
        latents=latents,
        num_inference_steps=1,
        guidance_scale=architecture.PANOFORM["guidance_scale"],
        output_type="latent",
    ).images


@pytest.mark.slow
def test_perceive_equals_the_pipeline(perceiver, pipeline):
    latents = torch.randn(2, 16, 4, 8, generator=torch.Generator().manual_seed(2))
    results = []
    for task in ("rgb_to_depth", "rgb_to_albedo"):
        with torch.no_grad():
            batch = perceiver.perceive(task, latents)
        for index in range(2):
            one = run_pipeline(pipeline, perceiver, task, latents[index : index + 1])
            torch.testing.assert_close(batch[index : index + 1], one, atol=1e-4, rtol=1e-3)
        results.append(batch)
    assert (results[0] - results[1]).abs().mean() > 0.01


@pytest.mark.slow
def test_every_parameter_has_a_gradient(perceiver):
    latents = torch.randn(1, 16, 4, 8)
    perceiver.zero_grad(set_to_none=True)
    for task in architecture.TASKS:
        perceiver.perceive(task, latents).square().mean().backward()
    without_gradient = [
        name for name, p in perceiver.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert without_gradient == []
    perceiver.zero_grad(set_to_none=True)


@pytest.mark.slow
def test_load_starter_restores_all_weights(perceiver, pipeline):
    other = Perceiver(architecture.create(seed=1)[0]).eval()
    other.load_starter(Path(pipeline.config._name_or_path))
    for name, value in perceiver.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
