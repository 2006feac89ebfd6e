"""The decoder's stand-in beside the decoder."""

import time
from pathlib import Path

import pytest
import torch
from diffusers.models import AutoencoderKL

from panoform.backend.models.flux import checkpoints
from panoform.backend.pipelines.layers import circular_padding
from panoform.backend.training import dataset, latents, sketch
from panoform.backend.training.run import Run
from panoform.backend.training.workers import Workers

SCENES = Path(__file__).parents[2] / "scenes"


def test_goes_round():
    torch.manual_seed(0)
    drawing, latent = sketch.Sketch(16), torch.randn(1, 16, 4, 8)
    torch.testing.assert_close(drawing(latent.roll(3, -1)), drawing(latent).roll(24, -1))


@pytest.mark.slow
def test_draws_what_the_decoder_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(sketch, "_STEPS", 150)
    monkeypatch.setattr(sketch, "_BATCH", 4)
    vae = AutoencoderKL.from_pretrained(checkpoints.STARTER / "vae", torch_dtype=torch.float32).eval()
    scenes = dataset.Scenes(SCENES, 128, torch.device("cpu"))
    run = Run(128, [scenes], scenes, tmp_path, torch.device("cpu"), 1, time.monotonic(), 1, Workers(), None)
    known = latents.encoded(vae, scenes, 128, 1, tmp_path, run.workers, run.say)
    # Of each four, the last is for measuring.
    drawing = sketch.learn(run, {name: values[:3] for name, values in known.items()})
    for stream in ("depth", "albedo"):
        latent = known[stream][3:].float()
        with torch.no_grad(), circular_padding.circular(vae):
            decoded = latents.decode(vae, latent)
            sketched = drawing(latent)
        error = (sketched - decoded).square().mean()
        spread = (decoded - decoded.mean((2, 3), keepdim=True)).square().mean()
        assert error < 0.2 * spread, stream
