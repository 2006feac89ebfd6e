"""The fast decoder compared with the VAE's decoder."""

import time
from pathlib import Path

import pytest
import torch
from diffusers.models import AutoencoderKL

from panoform.backend.models.flux import checkpoints
from panoform.backend.pipelines.layers import circular_padding
from panoform.backend.training import dataset, fast_decoder, latents
from panoform.backend.training.run import Run
from panoform.backend.training.workers import Workers

SCENES = Path(__file__).parents[2] / "scenes"


def test_padding_is_circular():
    torch.manual_seed(0)
    decoder, latent = fast_decoder.FastDecoder(16), torch.randn(1, 16, 4, 8)
    torch.testing.assert_close(decoder(latent.roll(3, -1)), decoder(latent).roll(24, -1))


@pytest.mark.slow
def test_fast_decoder_approximates_the_vaes_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(fast_decoder, "_STEPS", 150)
    monkeypatch.setattr(fast_decoder, "_BATCH", 4)
    vae = AutoencoderKL.from_pretrained(checkpoints.STARTER / "vae", torch_dtype=torch.float32).eval()
    scenes = dataset.Scenes(SCENES, 128, torch.device("cpu"))
    run = Run(128, [scenes], scenes, tmp_path, torch.device("cpu"), 1, time.monotonic(), 1, Workers(), None)
    cached = latents.encode_scenes(vae, scenes, 128, 1, tmp_path, run.workers, run.log)
    # The last of the four scenes is held out.
    decoder = fast_decoder.train(run, {name: values[:3] for name, values in cached.items()})
    for stream in ("depth", "albedo"):
        latent = cached[stream][3:].float()
        with torch.no_grad(), circular_padding.circular(vae):
            decoded = latents.decode(vae, latent)
            approximated = decoder(latent)
        error = (approximated - decoded).square().mean()
        spread = (decoded - decoded.mean((2, 3), keepdim=True)).square().mean()
        assert error < 0.2 * spread, stream
