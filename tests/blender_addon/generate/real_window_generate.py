"""Runs inside Blender's window: a panorama is made, cancelled, made again and taken back, while the world is watched.

Started with --enable-event-simulate and -- OUT FOLDER MODEL ADAPTERS LORA. Writes what it saw to OUT/seen.json.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import bpy

OUT, FOLDER, MODEL, ADAPTERS, LORA = sys.argv[sys.argv.index("--") + 1 :]
EXTENSION = "bl_ext.user_default.panoform"
jobs = sys.modules[f"{EXTENSION}.blender_addon.jobs"].jobs
panoramas = Path(OUT) / "panoramas"
seen: dict = {}


def window():
    return bpy.context.window_manager.windows[0]


def press(kind, **modifiers):
    area = next(area for area in window().screen.areas if area.type == "VIEW_3D")
    x, y = area.x + area.width // 2, area.y + area.height // 2
    window().event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    yield 0.3
    window().event_simulate(type=kind, value="PRESS", x=x, y=y, **modifiers)
    yield 0.1
    window().event_simulate(type=kind, value="RELEASE", x=x, y=y, **modifiers)
    yield 1.0


def stands():
    """The world, and what is on disk."""
    files = sorted(file.name for file in panoramas.iterdir()) if panoramas.exists() else []
    return [window().scene.world.name, sorted(world.name for world in bpy.data.worlds), files]


def generate(steps):
    with bpy.context.temp_override(window=window()):
        return "FINISHED" in bpy.ops.panoform.generate(
            prompt="a yard", lora=LORA, height=256, num_inference_steps=steps, seed=3
        )


def steps():
    chosen = bpy.context.preferences.addons[EXTENSION].preferences
    chosen.folder, chosen.flux_model, chosen.flux_adapters = FOLDER, MODEL, ADAPTERS
    chosen.device, chosen.dtype = "cpu", "fp32"
    bpy.context.scene.panoform.generate.folder = str(panoramas)
    bpy.ops.ed.undo_push(message="settings")
    yield from press("ESC")  # the splash screen takes it
    seen["before"] = stands()

    seen["returned at once"] = generate(steps=40)
    while jobs.job is not None and not jobs.job.previews:
        yield 0.2
    yield 0.5
    seen["at work"] = stands()
    with bpy.context.temp_override(window=window()):
        bpy.ops.panoform.cancel()
    while jobs.job is not None:
        yield 0.2
    yield 0.5
    seen["cancelled"] = stands()
    seen["said"] = jobs.failure.error.message

    generate(steps=2)
    while jobs.job is not None:
        yield 0.2
    yield 1.5
    seen["failure"] = jobs.failure and jobs.failure.details
    seen["made"] = stands()
    yield from press("Z", ctrl=True)
    seen["undone"] = stands()
    yield from press("Z", ctrl=True, shift=True)
    seen["redone"] = stands()
    write()
    bpy.ops.wm.quit_blender()


def write():
    part = Path(OUT) / "part.json"
    part.write_text(json.dumps(seen))
    part.replace(Path(OUT) / "seen.json")


def tick(under_way=steps()):  # noqa: B008
    try:
        return next(under_way)
    except StopIteration:
        return None
    except BaseException:
        seen["error"] = traceback.format_exc()
        write()
        time.sleep(1)
        os._exit(3)


bpy.app.timers.register(tick, first_interval=2.0, persistent=True)
