"""Run in Blender's window: open the preferences' page about models, wait for its state, take a picture.

Started with --enable-event-simulate and -- OUT FOLDER. Then registers a few German texts. Writes OUT/seen.json, and
pictures where it can.
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

    view_settings = bpy.context.preferences.view
    seen["languages"] = "de_DE" in bpy.app.translations.locales
    if seen["languages"]:
        texts = {("Operator", "Check Models"): "Modelle suchen", ("Operator", "Download"): "Herunterladen"}
        texts |= {("*", text): f"{text} ·de·" for text in ("Models", "FLUX Checkpoint", "about {size}")}
        texts["*", "missing, about {size}"] = "fehlt, etwa {size}"
        bpy.app.translations.register("panoform_test", {"de_DE": texts})
        view_settings.language, view_settings.use_translate_interface = "de_DE", True
        translate = sys.modules[f"{EXTENSION}.blender_addon.translation"].tr
        seen["translated"] = [translate("missing, about {size}", size="3 GB"), translate("Models")]
        yield 2.0
        shot("german")


run(steps(), seen, Path(OUT))
