"""Seam and pole metrics: low for real HDRIs, high for cut or pinched pictures."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest
import torch
from diffusers import AutoencoderKL

from panoform.backend.evaluation import seam_metrics
from panoform.backend.generation.sampler import to_array, to_tensor
from panoform.backend.models.flux.checkpoints import STARTER
from panoform.backend.pipelines.layers import circular_padding

NAMES = ("city", "courtyard", "forest", "interior", "night", "studio", "sunrise", "sunset")


def picture(name: str) -> np.ndarray:
    """Return an HDRI of bpy as (128, 256, 3), display-referred in [0, 1]."""
    folder = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    image = oiio.ImageBufAlgo.resize(oiio.ImageBuf(str(folder / f"{name}.exr")), roi=oiio.ROI(0, 256, 0, 128))
    linear = np.asarray(image.get_pixels(oiio.FLOAT))[..., :3]
    return np.clip(linear / np.quantile(linear, 0.9) * 0.8, 0, 1) ** (1 / 2.2)


@pytest.fixture(scope="module", params=NAMES)
def hdri(request) -> np.ndarray:
    return picture(request.param)


@pytest.mark.slow
def test_panorama_has_no_seam_at_any_rotation(hdri):
    found = [seam_metrics.seam(np.roll(hdri, turn, axis=1)) for turn in range(0, 256, 16)]
    assert 0.25 < np.median([one.percentile for one in found]) < 0.75
    assert np.median([one.ratio for one in found]) < 1.3


def test_half_of_a_panorama_has_a_seam(hdri):
    found = [seam_metrics.seam(np.roll(hdri, turn, axis=1)[:, :128]) for turn in range(0, 256, 16)]
    assert np.median([one.percentile for one in found]) > 0.95
    assert np.median([one.ratio for one in found]) > 3


def test_panorama_has_no_pinching_at_the_poles(hdri):
    assert max(seam_metrics.poles(hdri)) < 0.8
    assert min(seam_metrics.poles(hdri)) < 0.2


def test_vertical_stripes_are_pinched_at_the_poles(hdri):
    assert seam_metrics.poles(np.repeat(hdri[64:65], 128, axis=0)) == pytest.approx((1, 1))


@pytest.mark.slow
def test_vae_leaves_a_seam_only_without_circular_padding():
    """With the starter's VAE. Some panoramas have a larger step of their own, so all are evaluated together."""
    vae = AutoencoderKL.from_pretrained(STARTER / "vae")

    @torch.no_grad()
    def steps() -> np.ndarray:
        found = []
        for name in NAMES:
            pixels = 2 * to_tensor(picture(name)) - 1
            found.append(seam_metrics.seam(to_array(vae.decode(vae.encode(pixels).latent_dist.mode()).sample)).ratio)
        return np.array(found)

    off = steps()
    with circular_padding.circular(vae):
        on = steps()
    assert np.median(on) < 1.3
    assert np.mean(off > on) > 0.9
