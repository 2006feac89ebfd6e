"""Measure from the press of Perceive to the built scene: python bench/press.py [PANORAMA]

Prints the seconds of three presses with the starter, in one Blender (the bpy module): one with no backend running, one
right after it, and one in a backend that was started early and warmed up, as the panel does; how long the mesh took of
it; and the processor seconds of Blender and of the backend, which other programs change less. Without a PANORAMA, one
of Blender's own HDRIs is perceived. A window also draws the result, which is not measured.
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


def press(path: Path) -> tuple[float, float, float, float]:
    """Perceive and build; return the seconds of all, those of the mesh, and the processor seconds of both programs.

    The start of a backend that was not running counts too.
    """
    began, used, before = time.perf_counter(), time.process_time(), backend_time()
    bpy.ops.panoform.perceive(source="FILE", filepath=str(path))
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return seconds, jobs.results[0].reply.info.seconds, used, backend_time() - before


def backend_time() -> float:
    """Return the processor seconds that the backend has used; 0 where none runs."""
    if jobs.state is not State.READY:
        return 0.0
    return sum(psutil.Process(jobs.session.process.poll().pid).cpu_times()[:2])


def warm_up() -> None:
    """Start the backend as the panel does, and wait until it has nothing more to import or load."""
    jobs.start(warm_up=True)
    while jobs.state is not State.READY:
        jobs.poll()
        time.sleep(0.01)
    used = -1.0
    while (now := backend_time()) - used > 0.05:
        used = now
        time.sleep(3.0)  # beside other programs it may get nothing for a while


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
        whole, mesh, blender, backend = press(path)
        print(
            f"{name:14} {whole:5.1f} s, mesh {mesh:.1f} s; processor: Blender {blender:.1f} s, backend {backend:.1f} s"
        )
    blender_addon.unregister()  # stops the backend; bpy crashes at its end while classes are registered


if __name__ == "__main__":
    main()
