"""Run in Blender's window: texture the startup file's cube, without a UV map, from a reference picture, and undo it.

Started with --enable-event-simulate and -- OUT BASE ADAPTERS, the last two being checkpoints, or "" for no model.
Writes its results to OUT/seen.json and, where it can, a picture of the window beside it.
"""

import contextlib
import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from window_runner import EXTENSION, press, run, view, window

OUT, BASE, ADAPTERS = sys.argv[sys.argv.index("--") + 1 :]
jobs = importlib.import_module(f"{EXTENSION}.blender_addon.jobs.manager").jobs
seen: dict = {}


def in_view():
    region = next(region for region in view().regions if region.type == "WINDOW")
    return bpy.context.temp_override(window=window(), area=view(), region=region)


def state():
    cube = bpy.data.objects["Cube"]
    materials = [slot.material.name for slot in cube.material_slots]
    return [materials, [layer.name for layer in cube.data.uv_layers], len(bpy.data.scenes), cube.mode]


def steps():
    yield from press("ESC")  # closes the splash screen
    chosen = bpy.context.preferences.addons[EXTENSION].preferences
    chosen.multiview_model, chosen.multiview_adapters = BASE, ADAPTERS
    chosen.device, chosen.dtype = "cpu", "fp32"
    cube = bpy.data.objects["Cube"]
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    image = bpy.data.images.new("red", 32, 32, alpha=True)
    rows = range(32)
    image.pixels = [
        value
        for y in rows
        for x in rows
        for value in ((0.8, 0.1, 0.1, 1.0) if (x - 16) ** 2 + (y - 16) ** 2 < 180 else (0.0,) * 4)
    ]
    image.pack()
    view().spaces.active.show_region_ui = True
    view().spaces.active.shading.type = "MATERIAL"
    with in_view():
        bpy.ops.ed.undo_push(message="before")
        seen["before"] = state()
        seen["started"] = list(
            bpy.ops.panoform.texture(
                "EXEC_DEFAULT", True, reference="red", num_inference_steps=2, view_size=64, size=256, upscale="off"
            )
        )
        seen["pressed"] = state()
    by = time.monotonic() + 200
    while jobs.job is not None or any(result.pending for result in jobs.results):
        assert time.monotonic() < by, jobs.job and jobs.job.text
        yield 0.2
    seen["failure"] = jobs.failure and jobs.failure.details
    seen["built"] = state()
    for region in view().regions:
        if region.type == "UI":
            # Blender 4.3 doesn't let scripts choose the tab.
            with contextlib.suppress(AttributeError, TypeError):
                region.active_panel_category = "Panoform"
    # The panel shows its section Texture alone.
    bpy.context.scene.panoform.texture.reference = image
    yield 4.0
    if shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(Path(OUT) / "textured.png")], check=True)
    with in_view():
        bpy.ops.ed.undo()
    seen["undone"] = state()
    with in_view():
        bpy.ops.ed.redo()
    seen["redone"] = state()
    if not BASE:
        yield from from_camera()


def from_camera():
    """Texture it again from the scene camera's render, which runs while the window lives on."""
    scene = bpy.context.scene
    scene.render.resolution_x = scene.render.resolution_y = 64
    with in_view():
        bpy.ops.ed.undo_push(message="before the camera")
        bpy.ops.panoform.texture("EXEC_DEFAULT", True, use_camera=True, view_size=64, size=256)
    seen["rendering"] = jobs.job is not None and jobs.job.spec.is_rendering
    by = time.monotonic() + 200
    while jobs.job is not None or any(result.pending for result in jobs.results):
        assert time.monotonic() < by, jobs.job and jobs.job.text
        yield 0.2
    seen["camera failure"] = jobs.failure and jobs.failure.details
    material = bpy.data.objects["Cube"].material_slots[0].material
    seen["camera"] = json.loads(material["panoform_texture"])["source"]
    seen["scenes"] = [one.name for one in bpy.data.scenes]


run(steps(), seen, Path(OUT))
