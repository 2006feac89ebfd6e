"""Run in Blender's window: save, change and load a preset, open the menu, take pictures.

Started with --enable-event-simulate and -- OUT FOLDER. Writes OUT/seen.json, and pictures where it can.
"""

import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parents[1]))
from window_runner import EXTENSION, in_view, press, run, screenshot, view

OUT, FOLDER = sys.argv[sys.argv.index("--") + 1 :]
store = sys.modules[f"{EXTENSION}.blender_addon.presets.store"]
seen: dict = {}


def steps():
    bpy.context.preferences.addons[EXTENSION].preferences.folder = FOLDER
    bpy.context.preferences.view.show_splash = False
    yield from press("ESC")
    view().spaces[0].show_region_ui = True
    yield 1.0
    next(region for region in view().regions if region.type == "UI").active_panel_category = "Panoform"
    settings = bpy.context.scene.panoform
    settings.maps, settings.quality = {"DISTANCE", "ALBEDO"}, "best"
    with in_view():
        for name in ("Interiors", "Night Streets"):
            bpy.ops.panoform.save_preset(kind="perceive", name=name)
        settings.maps, settings.quality = {"NORMAL"}, "draft"
        bpy.ops.panoform.load_preset(kind="perceive", name="Interiors")
    seen["loaded"] = [sorted(settings.maps), settings.quality]
    seen["folder"] = str(store.folder("perceive"))
    seen["names"] = store.names("perceive")
    yield 2.0
    screenshot(Path(OUT) / "tab.png")
    with in_view():
        bpy.ops.wm.call_menu(name="PANOFORM_MT_perceive_presets")
    yield 2.0
    screenshot(Path(OUT) / "menu.png")
    yield from press("ESC")
    with in_view():
        bpy.ops.ed.undo_push(message="Before")
        bpy.ops.panoform.save_preset("INVOKE_DEFAULT", kind="perceive")
    yield 2.0
    screenshot(Path(OUT) / "save.png")


run(steps(), seen, Path(OUT))
