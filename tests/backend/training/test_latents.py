"""Encoding and decoding of panoramas in training."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL

from panoform.backend.models.flux import checkpoints
from panoform.backend.pipelines.layers import circular_padding
from panoform.backend.training import dataset, latents

SCENES = Path(__file__).parents[2] / "scenes"


@pytest.mark.slow
@torch.no_grad()
def test_vae_in_bfloat16_is_close_to_float32():
    """Training on CUDA uses bfloat16; padding stays circular, and the results are float32."""
    vae = AutoencoderKL.from_pretrained(checkpoints.STARTER / "vae", torch_dtype=torch.float32).eval()
    maps = dataset.Scenes(SCENES, 128, torch.device("cpu")).take(torch.arange(1))
    picture = F.avg_pool2d(dataset.display(maps["rgb"]), 2)  # a CPU convolves slowly in bfloat16
    decoded = {}
    for dtype in (torch.float32, torch.bfloat16):
        vae.to(dtype)
        with circular_padding.circular(vae), torch.autocast("cpu", torch.bfloat16):
            decoded[dtype] = latents.decode(vae, latents.encode(vae, picture))
            decoded_rolled = latents.decode(vae, latents.encode(vae, picture.roll(64, -1)))
        assert decoded[dtype].dtype == torch.float32
        assert (decoded_rolled.roll(-64, -1) - decoded[dtype]).abs().mean() < (1e-5 if dtype == torch.float32 else 0.01)
    assert (decoded[torch.float32] - decoded[torch.bfloat16]).abs().mean() < 0.01
    assert (decoded[torch.float32] - picture).abs().mean() < 0.05
