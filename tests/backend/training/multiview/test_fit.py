"""Training of the multi-view starter: its forward pass is the pipeline's; it resumes, and exports what loads."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file

from panoform.backend.models.sd21 import checkpoints
from panoform.backend.pipelines.layers.snr_shift import shifted_betas
from panoform.backend.pipelines.multiview import MultiViewPipeline
from panoform.backend.training.multiview import architecture, evaluate, model
from panoform.backend.training.multiview.__main__ import main
from panoform.backend.training.multiview.model import Views


def pipeline(folder) -> tuple[MultiViewPipeline, dict[str, torch.Tensor]]:
    loaded = MultiViewPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)
    loaded.load_adapter(folder, architecture.TASK)
    loaded.set_progress_bar_config(disable=True)
    return loaded, {name: value.float() for name, value in load_file(folder / checkpoints.PROMPT_EMBEDS).items()}


@pytest.mark.slow
@torch.no_grad()
def test_prediction_is_that_of_the_pipeline(tmp_path):
    """A step from the same noise, without guidance (the prediction that is shown the reference) and with."""
    generator = torch.Generator().manual_seed(0)
    views = Views()
    for parameter in views.parameters():  # branches that start from zero would hide a difference
        parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        parameter.copy_(parameter.half())
    architecture.save(tmp_path, architecture.create_vae(), *views.parts(), views.prompts)
    control, noisy = torch.rand(6, 6, 64, 64, generator=generator), torch.randn(6, 8, 8, 8, generator=generator)
    reference = torch.randn(1, 8, 8, 8, generator=generator)
    twice = (noisy.repeat(2, 1, 1, 1), torch.tensor([999, 999]), control.repeat(2, 1, 1, 1))
    shown, hidden = model.predict(views, *twice, reference.repeat(2, 1, 1, 1), torch.tensor([True, False])).chunk(2)
    assert (shown - hidden).abs().max() > 0.1

    loaded, prompts = pipeline(tmp_path)
    base = DDPMScheduler.from_config(architecture.SCHEDULER)
    kept = torch.cumprod(1 - shifted_betas(base.alphas_cumprod), 0)[999]
    for guidance, velocity in ((1.0, shown), (2.0, 2 * shown - hidden)):
        made = []
        loaded(
            architecture.TASK, control, None, num_inference_steps=1, guidance_scale=guidance, scheduler="ddim",
            latents=noisy, output_type="latent", reference_latents=reference,
            prompt_embeds=prompts["prompt_embeds"], negative_prompt_embeds=prompts["negative_prompt_embeds"],
            callback_on_step_end=lambda _pipe, _step, _t, tensors, made=made: made.append(tensors["denoised"]),
        )  # fmt: skip
        expected = kept.sqrt() * noisy - (1 - kept).sqrt() * velocity
        torch.testing.assert_close(made[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_train_resume_export_evaluate(tmp_path, capsys):
    data, folder, sheet = tmp_path / "data", tmp_path / "model", tmp_path / "sheet.png"
    train = [
        "--data", str(data), "train", "--vae-steps", "2", "--batch", "1", "--vae-batch", "4", "--size", "32",
        "--crop", "16", "--pool", "1", "--fresh", "1", "--exact",
    ]  # fmt: skip
    main([*train, "--views-steps", "1"])
    main([*train, "--views-steps", "2"])
    assert "views: from step 1 of 2" in capsys.readouterr().out
    main(["--data", str(data), "export", "--out", str(folder)])
    base = checkpoints.inspect(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 20e6
    assert base.vae.config["scaling_factor"] != 0.18215
    line = evaluate.evaluate(folder, sheet, 1, 32, 1, 1.0, exact=True)
    assert "mean colour" in line
    assert sheet.stat().st_size > 0
