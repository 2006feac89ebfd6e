"""Jobs that perceive a small panorama of noise."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from mathutils import Matrix

from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.perceive.spec import NO_PIXELS, PerceiveSpec
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings


def spec(scene, **settings) -> PerceiveSpec:
    pixels = np.random.default_rng(1).uniform(0.05, 1, (64, 128, 3)).astype(np.float32)
    capture = Capture(Pixels(pixels, "linear"), "noise", Matrix.Identity(4))
    given = {"maps": ("distance",), "num_inference_steps": 1, "height": 64} | settings
    request = PerceiveRequest(
        panorama=NO_PIXELS, encoding="linear", engine=EngineSettings(), settings=PerceiveSettings(**given)
    )
    return PerceiveSpec(source=capture, name="noise", scene_uid=scene.session_uid, request=request)


def poll_until(jobs: Jobs, met: Callable[[], bool]) -> None:
    by = time.monotonic() + 120
    while not met():
        jobs.poll()
        assert time.monotonic() < by, "it never came"
        time.sleep(0.01)
