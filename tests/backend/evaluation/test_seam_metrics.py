"""The seam and pole metrics: real HDRIs close, and whatever is cut or pinched doesn't."""

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
    """(128, 256, 3), display-referred in [0, 1]."""
    folder = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    image = oiio.ImageBufAlgo.resize(oiio.ImageBuf(str(folder / f"{name}.exr")), roi=oiio.ROI(0, 256, 0, 128))
    linear = np.asarray(image.get_pixels(oiio.FLOAT))[..., :3]
    return np.clip(linear / np.quantile(linear, 0.9) * 0.8, 0, 1) ** (1 / 2.2)


@pytest.fixture(scope="module", params=NAMES)
def hdri(request) -> np.ndarray:
    return picture(request.param)


def test_a_panorama_has_no_seam_wherever_it_is_cut(hdri):
    found = [seam_metrics.seam(np.roll(hdri, turn, axis=1)) for turn in range(0, 256, 16)]
    assert 0.25 < np.median([one.percentile for one in found]) < 0.75
    assert np.median([one.ratio for one in found]) < 1.3


def test_half_a_panorama_has_a_seam(hdri):
    found = [seam_metrics.seam(np.roll(hdri, turn, axis=1)[:, :128]) for turn in range(0, 256, 16)]
    assert np.median([one.percentile for one in found]) > 0.95
    assert np.median([one.ratio for one in found]) > 3


def test_a_panorama_does_not_pinch(hdri):
    assert max(seam_metrics.poles(hdri)) < 0.8
    assert min(seam_metrics.poles(hdri)) < 0.2


def test_stripes_from_pole_to_pole_pinch(hdri):
    assert seam_metrics.poles(np.repeat(hdri[64:65], 128, axis=0)) == pytest.approx((1, 1))


@pytest.mark.slow
def test_the_vae_leaves_a_seam_only_without_the_wrap():
    """The starter's. Its step at the edges is small beside some panoramas' own, so all of them count together."""
    vae = AutoencoderKL.from_pretrained(STARTER / "vae")

    @torch.no_grad()
    def steps() -> np.ndarray:
        found = []
        for name in NAMES:
            for turn in range(0, 256, 128):
                given = 2 * to_tensor(np.roll(picture(name), turn, axis=1)) - 1
                found.append(seam_metrics.seam(to_array(vae.decode(vae.encode(given).latent_dist.mode()).sample)).ratio)
        return np.array(found)

    off = steps()
    with circular_padding.circular(vae):
        on = steps()
    assert np.median(on) < 1.3
    assert np.mean(off > on) > 0.9
