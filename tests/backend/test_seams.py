"""The seam and pole metrics: real HDRIs close, and whatever is cut or pinched doesn't."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend import seams

NAMES = ("city", "courtyard", "forest", "interior", "night", "studio", "sunrise", "sunset")


@pytest.fixture(scope="module", params=NAMES)
def hdri(request) -> np.ndarray:
    """(128, 256, 3), display-referred in [0, 1]."""
    folder = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    image = oiio.ImageBufAlgo.resize(oiio.ImageBuf(str(folder / f"{request.param}.exr")), roi=oiio.ROI(0, 256, 0, 128))
    linear = np.asarray(image.get_pixels(oiio.FLOAT))[..., :3]
    return np.clip(linear / np.quantile(linear, 0.9) * 0.8, 0, 1) ** (1 / 2.2)


def test_a_panorama_has_no_seam_wherever_it_is_cut(hdri):
    found = [seams.seam(np.roll(hdri, turn, axis=1)) for turn in range(0, 256, 16)]
    assert 0.25 < np.median([one.percentile for one in found]) < 0.75
    assert np.median([one.ratio for one in found]) < 1.3


def test_half_a_panorama_has_a_seam(hdri):
    found = [seams.seam(np.roll(hdri, turn, axis=1)[:, :128]) for turn in range(0, 256, 16)]
    assert np.median([one.percentile for one in found]) > 0.95
    assert np.median([one.ratio for one in found]) > 3


def test_a_panorama_does_not_pinch(hdri):
    assert max(seams.poles(hdri)) < 0.8
    assert min(seams.poles(hdri)) < 0.2


def test_stripes_from_pole_to_pole_pinch(hdri):
    assert seams.poles(np.repeat(hdri[64:65], 128, axis=0)) == pytest.approx((1, 1))
