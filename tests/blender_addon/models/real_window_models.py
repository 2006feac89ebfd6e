"""Run in Blender's window: open the preferences' page about models, wait for its state, take a picture.

Started with --enable-event-simulate and -- OUT FOLDER. Writes OUT/seen.json, and pictures where it can.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parents[1]))
from window_runner import EXTENSION, press, run, view, window

OUT, FOLDER = sys.argv[sys.argv.index("--") + 1 :]
models = sys.modules[f"{EXTENSION}.blender_addon.models.manager"].models
seen: dict = {}


def shot(name):
    if shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(Path(OUT) / f"{name}.png")], check=True)


def steps():
    own = bpy.context.preferences.addons[EXTENSION].preferences
    own.folder, own.page = FOLDER, "MODELS"
    bpy.context.preferences.view.show_splash = False
    yield from press("ESC")
    view().type = "PREFERENCES"  # in the main window, which is larger than that of the preferences
    bpy.context.preferences.active_section = "ADDONS"
    bpy.context.window_manager.addon_search = "Panoform"
    with bpy.context.temp_override(window=window()):
        bpy.ops.preferences.addon_expand(module=EXTENSION)
    ticks = 0
    while models.state is None and not models.failures and ticks < 600:
        ticks += 1
        yield 0.2
    seen["ticks"] = ticks
    seen["failures"] = [str(error) for error in models.failures.values()]
    seen["weights"] = [state.name for state in models.state.weights]
    seen["precisions"] = sorted(models.state.precisions)
    yield 3.0
    shot("models")


run(steps(), seen, Path(OUT))
