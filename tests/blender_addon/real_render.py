"""Run in Blender's window: render a panorama without blocking it. Write the observations to OUT/seen.json.

blender --python real_render.py -- OUT
"""

import sys
import types
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from window_runner import run

root = Path(__file__).resolve().parents[2]
for name, folder in (("panoform", root), ("panoform.blender_addon", root / "blender_addon")):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from panoform.blender_addon.capture import render, sources  # noqa: E402

seen: dict = {}


def names() -> dict[str, list[str]]:
    return {kind: [one.name for one in getattr(bpy.data, kind)] for kind in ("scenes", "cameras", "objects")}


def start(width: int, samples: int) -> render.PanoramaRender:
    scene = bpy.context.scene
    rendering = render.PanoramaRender(scene, sources.cursor_pose(scene), width=width, samples=samples)
    rendering.start()
    return rendering


def steps():
    scene = bpy.context.scene
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.2, 0.4, 0.8, 1)
    seen["before"] = names()
    rendering = start(64, 8)
    seen["running"] = bpy.app.is_job_running("RENDER")
    while (found := rendering.poll()) is None:
        yield 0.05
    seen["mean"] = found.panorama.pixels.mean(axis=(0, 1)).tolist()
    seen["shape"] = found.panorama.pixels.shape
    seen["after"] = names()
    seen["windows"] = len(bpy.context.window_manager.windows)
    yield 0.05
    # A render that would take hours is stopped and removed completely.
    rendering = start(2048, 1_000_000)
    seen["long one"] = bpy.app.is_job_running("RENDER")
    yield 3.0
    rendering.close()
    seen["stopped"] = not bpy.app.is_job_running("RENDER")
    seen["after cancel"] = names()


run(steps(), seen, Path(sys.argv[sys.argv.index("--") + 1]))
