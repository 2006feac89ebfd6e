"""Measure for how long the add-on keeps Blender's main thread busy: python bench/stalls.py [--height 2048]

Prints the longest call in milliseconds while the backend starts, a job runs (bench's own polls stand for the timer), a
result of that height is built, a stuck backend is stopped, a cancelled job restarts the backend, and a set-up starts
and is cancelled. Building is the work itself; everything else should stay below 50 ms.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

import panoform.backend
from panoform import blender_addon
from panoform.backend.io.encoding import encode_image
from panoform.blender_addon import preferences
from panoform.blender_addon.backend import session
from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.jobs.job import Job
from panoform.blender_addon.jobs.manager import State, jobs
from panoform.blender_addon.perceive.spec import NO_PIXELS, PerceiveSpec
from panoform.blender_addon.scene import spec
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.jobs.scene import SceneSettings
from panoform.shared.maps import MAPS

ROOT = Path(panoform.backend.__file__).parents[1]
ARITHMETIC = (sys.executable, str(ROOT / "tests" / "backend" / "serve_arithmetic.py"))


class Stalls:
    """The longest call of each phase, in seconds."""

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}

    def call(self, phase: str, run: Callable[[], object]) -> None:
        began = time.perf_counter()
        run()
        self.longest[phase] = max(self.longest.get(phase, 0.0), time.perf_counter() - began)

    def until(self, phase: str, met: Callable[[], bool]) -> None:
        while not met():
            self.call(phase, jobs.poll)
            time.sleep(0.01)


def job(height: int, source: str) -> PerceiveSpec:
    picture = np.full((height, 2 * height, 3), 0.5, np.float32)
    settings = PerceiveSettings(maps=("distance",), num_inference_steps=50)
    request = PerceiveRequest(panorama=NO_PIXELS, encoding="linear", engine=EngineSettings(), settings=settings)
    made = PerceiveSpec(
        source=Capture(Pixels(picture, "linear"), "room", Matrix.Identity(4)), name="room",
        scene_uid=bpy.context.scene.session_uid, request=request,
    )  # fmt: skip
    request.source = source
    return made


def measure(height: int) -> dict[str, float]:
    stalls, start = Stalls(), session.BackendProcess
    session.BackendProcess = lambda _, folder, **options: start(ARITHMETIC, folder)  # pyright: ignore[reportAttributeAccessIssue]
    stalls.call("start", jobs.start)
    stalls.until("start", lambda: jobs.state is State.READY)
    made = job(height, "")
    stalls.call("job", lambda: jobs.begin(made))
    stalls.until("job", lambda: jobs.job is None)
    for name, phase in (("locked", "stop a stuck backend"), ("stuck", "restart after Cancel")):
        stuck = job(16, name)
        jobs.begin(stuck)
        stalls.until("job", lambda: jobs.job is not None and jobs.job.stage in ("Locked", "Stuck"))
        if name == "locked":
            time.sleep(0.5)
            stalls.call(phase, lambda: jobs.stop(wait=False))
        else:
            Job.PATIENCE_S = 1.0
            jobs.stop = functools.partial(jobs.stop, wait=False)  # as in a window
            stalls.call(phase, jobs.cancel)
            stalls.until(phase, lambda: jobs.job is None)
    with tempfile.TemporaryDirectory() as folder:
        preferences.get().folder = folder
        stalls.call(
            "set-up", lambda: jobs.set_up(Path(folder) / "panoform-0.1.0-py3-none-any.whl", Path(sys.executable))
        )
        for _ in range(100):
            stalls.call("set-up", jobs.poll)
            time.sleep(0.01)
        stalls.call("cancel the set-up", jobs.cancel)
        stalls.until("cancel the set-up", lambda: jobs.setup is None)
        preferences.get().property_unset("folder")
    stalls.call("exit", lambda: jobs.close(wait=False))
    values = {
        "distance": np.ones((height, 2 * height, 1)), "normal": np.full((height, 2 * height, 3), (1, 0, 0)),
        "albedo": np.full((height, 2 * height, 3), 0.5),
    }  # fmt: skip
    files = {
        MAPS[name].filename: np.frombuffer(
            encode_image(MAPS[name].filename, array.astype(np.float32), MAPS[name].colorspace), np.uint8
        )
        for name, array in values.items()
    }
    capture, scene = made.source, bpy.context.scene
    stalls.call(
        f"build {2 * height} × {height}",
        lambda: spec.dome_from_files(scene, "room", files, capture, SceneSettings(), None),  # pyright: ignore[reportArgumentType]
    )
    return stalls.longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=2048)
    options = parser.parse_args()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    os.environ["PANOFORM_BACKEND_PYTHON"] = sys.executable
    blender_addon.register()
    bpy.context.preferences.addons.new().module = preferences.EXTENSION
    for phase, seconds in measure(options.height).items():
        print(f"{phase:24} {1000 * seconds:7.0f} ms")
    blender_addon.unregister()  # bpy crashes at its end while classes are registered


if __name__ == "__main__":
    main()
