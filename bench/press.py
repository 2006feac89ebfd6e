"""Measure from the press of Perceive to the built scene: python bench/press.py [PANORAMA]

Prints the seconds of three presses with the starter, in one Blender (the bpy module): one with no backend running, one
right after it, and one in a backend that was started early and warmed up, as the panel does. Without a PANORAMA, one of
Blender's own HDRIs is perceived. A window also draws the result, which is not measured.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import bpy
import psutil

from panoform import blender_addon
from panoform.blender_addon import preferences
from panoform.blender_addon.jobs.manager import State, jobs

HDRI = Path(bpy.utils.system_resource("DATAFILES", path="studiolights/world")) / "interior.exr"


def press(path: Path) -> tuple[float, float]:
    """Perceive and build; return the seconds of the press, and those of the backend's job."""
    began = time.perf_counter()
    bpy.ops.panoform.perceive(source="FILE", filepath=str(path))
    return time.perf_counter() - began, jobs.results[0].reply.info.seconds


def warm_up() -> None:
    """Start the backend as the panel does, and wait until it has nothing more to import."""
    jobs.start(warm_up=True)
    while jobs.state is not State.READY:
        jobs.poll()
        time.sleep(0.01)
    backend = psutil.Process(jobs.session.process.poll().pid)
    used = -1.0
    while (now := sum(backend.cpu_times()[:2])) - used > 0.05:
        used = now
        time.sleep(0.5)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HDRI
    bpy.ops.wm.read_factory_settings(use_empty=True)
    os.environ["PANOFORM_BACKEND_PYTHON"] = sys.executable
    blender_addon.register()
    bpy.context.preferences.addons.new().module = preferences.EXTENSION
    for name in ("cold", "again", "started early"):
        if name == "started early":
            jobs.stop(wait=True)
            warm_up()
        whole, job = press(path)
        print(f"{name:14} {whole:5.1f} s, of which {job:.1f} s perceive")
    jobs.close(wait=True)


if __name__ == "__main__":
    main()
