"""Run in Blender's window: render a panorama without blocking it. Write the observations as JSON.

blender --python real_render.py -- OUT.json
"""

import json
import sys
import traceback
import types
from pathlib import Path

import bpy

root = Path(__file__).resolve().parents[2]
for name, folder in (("panoform", root), ("panoform.blender_addon", root / "blender_addon")):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from panoform.blender_addon.capture import render, sources  # noqa: E402

out = Path(sys.argv[sys.argv.index("--") + 1])
seen = {}
rendering = None


def names() -> dict[str, list[str]]:
    return {kind: [one.name for one in getattr(bpy.data, kind)] for kind in ("scenes", "cameras", "objects")}


def begin() -> render.PanoramaRender:
    scene = bpy.context.scene
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.2, 0.4, 0.8, 1)
    seen["before"] = names()
    rendering = render.PanoramaRender(scene, sources.cursor_pose(scene), width=64, samples=8)
    rendering.start()
    seen["running"] = bpy.app.is_job_running("RENDER")
    return rendering


def cancel(scene: bpy.types.Scene) -> None:
    """A render that would take hours is stopped and removed completely."""
    global rendering
    if not bpy.app.is_job_running("RENDER"):
        rendering = render.PanoramaRender(scene, sources.cursor_pose(scene), width=2048, samples=1_000_000)
        rendering.start()
        seen["long one"] = bpy.app.is_job_running("RENDER")
        return
    rendering.close()
    seen["stopped"] = not bpy.app.is_job_running("RENDER")
    seen["after cancel"] = names()
    out.write_text(json.dumps(seen))


def step() -> float | None:
    global rendering
    try:
        if "after" in seen:
            cancel(bpy.context.scene)
            return None if "stopped" in seen else 3.0
        if rendering is None:
            rendering = begin()
            return 0.05
        found = rendering.poll()
        if found is None:
            return 0.05
        seen["mean"] = found.panorama.pixels.mean(axis=(0, 1)).tolist()
        seen["shape"] = found.panorama.pixels.shape
        seen["after"] = names()
        seen["windows"] = len(bpy.context.window_manager.windows)
        return 0.05
    except Exception:
        seen["error"] = traceback.format_exc()
    out.write_text(json.dumps(seen))
    return None


bpy.app.timers.register(step, first_interval=1)
