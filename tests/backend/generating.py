"""Run generate and edit jobs at a tiny size."""

import msgspec
import numpy as np

from panoform.backend.evaluation import seam_metrics
from panoform.backend.generation import edit_job, job
from panoform.shared.imaging import sphere
from panoform.shared.jobs.edit import EditRequest
from panoform.shared.jobs.generate import GenerateRequest, View

#: Half the least height that users can set (the fixture `small` allows it): a quarter of the time.
HEIGHT = 128
SIZE = {"height": HEIGHT, "num_inference_steps": 2, "hdr": False}
#: With the fixture `in_windows`.
LARGE = {"height": 384, "num_inference_steps": 1}


def generate(models, flux, settings, reporter, picture=None, view=None):
    request = GenerateRequest(picture=picture, view=view or View(), engine=flux, settings=settings)
    return job.generate(request, models, reporter)


def edit(models, flux, settings, reporter, panorama, mask, strength=1.0, encoding="linear", extend=False):
    request = EditRequest(
        panorama=panorama, encoding=encoding, mask=None if mask is None else mask[..., None].astype(np.uint8),
        strength=strength, extend=extend, source="p.exr", engine=flux, settings=settings,
    )  # fmt: skip
    return edit_job.edit(request, models, reporter)


def changed(settings, **fields):
    return msgspec.structs.replace(settings, **fields)


def sunny_panorama(height=HEIGHT):
    """Return smooth linear light with a sun."""
    rays = sphere.directions(height, 2 * height)
    light = np.exp(np.stack([rays[..., 0], 0.5 * rays[..., 1] - rays[..., 2], rays[..., 2]], -1)).astype(np.float32)
    light[height // 4, height // 3] = 3000
    return light


def gradient():
    """Return a smooth sRGB panorama."""
    return (0.5 + 0.4 * sphere.directions(HEIGHT, 2 * HEIGHT)).astype(np.float32)


def disc(height, u, v, radius):
    """Return a mask of size (height, 2·height), True in a disc around column u and row v, also across the seam."""
    y, x = np.mgrid[:height, : 2 * height]
    return np.minimum((x - u) % (2 * height), (u - x) % (2 * height)) ** 2 + (y - v) ** 2 < radius**2


def check_closed(panorama):
    """Check the size LARGE, the seam and the poles."""
    assert panorama.shape == (384, 768, 3)
    assert seam_metrics.seam(panorama).ratio < 2
    assert max(seam_metrics.poles(panorama)) < 0.2
