"""Run in Blender's window: look around in the world's HDRI, and return.

Started with --enable-event-simulate and -- OUT. Writes OUT/seen.json, and pictures where it can.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parents[1]))
from window_runner import EXTENSION, press, run, view, window

(OUT,) = sys.argv[sys.argv.index("--") + 1 :]
look_around = sys.modules[f"{EXTENSION}.blender_addon.perceive.look_around"]
jobs = sys.modules[f"{EXTENSION}.blender_addon.jobs.manager"].jobs
jobs_timer = sys.modules[f"{EXTENSION}.blender_addon.jobs.timer"]
seen: dict = {}


def shot(name):
    if shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(Path(OUT) / f"{name}.png")], check=True)


def stands():
    space = view().spaces.active
    return [window().scene.world.name, space.shading.type, space.overlay.show_overlays, space.show_object_viewport_mesh]


def steps():
    yield from press("ESC")  # closes the splash screen
    tree = window().scene.world.node_tree
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    file = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world" / "interior.exr"
    texture.image = bpy.data.images.load(str(file))
    tree.links.new(texture.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    view().spaces.active.show_region_ui = True
    yield 0.5
    sidebar = next(region for region in view().regions if region.type == "UI")
    sidebar.active_panel_category = "Panoform"
    yield 1.0
    seen["before"] = stands()
    main = window()
    bpy.ops.screen.userpref_show()
    yield 1.0
    windows = bpy.context.window_manager.windows
    seen["windows"] = [len(windows)]
    with bpy.context.temp_override(window=window(), area=view()):
        seen["returned"] = list(bpy.ops.panoform.look_around(of="SOURCE"))
        jobs_timer.start()  # it leaves the picture alone
    yield 3.0
    seen["active"] = look_around.is_active()
    seen["looking"] = stands()
    yield 25.0  # shaders compile
    shot("looking")
    with bpy.context.temp_override(window=next(one for one in windows if one != main)):
        bpy.ops.wm.window_close()
    with bpy.context.temp_override(window=main, area=view()):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.5)
    yield 1.0
    seen["windows"].append(len(windows))
    with bpy.context.temp_override(window=window(), area=view()):
        bpy.ops.panoform.stop_looking()
    seen["after"] = stands()
    tree.nodes["Background"].inputs["Strength"].default_value = 1.0
    curve = tree.nodes.new("ShaderNodeGamma")  # other nodes: the world is rendered first
    tree.links.new(texture.outputs["Color"], curve.inputs["Color"])
    tree.links.new(curve.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    began = time.monotonic()
    with bpy.context.temp_override(window=window(), area=view()):
        bpy.ops.panoform.look_around(of="SOURCE")
    seen["returned after"] = time.monotonic() - began
    seen["rendering"] = [jobs.job is not None, look_around.is_active()]
    yield 0.5
    shot("rendering")
    while jobs.job is not None:
        yield 0.2
    yield 2.0
    failure = jobs.failure and jobs.failure.details
    seen["rendered"] = [failure, look_around.is_active(), len(jobs.results), len(bpy.data.scenes)]
    with bpy.context.temp_override(window=window(), area=view()):
        bpy.ops.panoform.stop_looking()
    views = [area.spaces.active for area in main.screen.areas if area.type == "VIEW_3D"]
    seen["shown"] = [space.show_object_viewport_mesh and space.overlay.show_overlays for space in views]
    yield 1.0
    shot("after")


run(steps(), seen, Path(OUT))
