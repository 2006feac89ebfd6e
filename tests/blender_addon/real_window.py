"""Run in Blender's window: press the panel's button, undo the result, change the scene during a job.

Started with --enable-event-simulate and -- OUT PANORAMA FOLDER. Writes its results to OUT/seen.json and, where it can,
pictures of the window beside it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import bpy
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).parent))
from window_runner import EXTENSION, press, run, view, window

OUT, PANORAMA, FOLDER = sys.argv[sys.argv.index("--") + 1 :]
jobs = sys.modules[f"{EXTENSION}.blender_addon.jobs.manager"].jobs
#: Centre of the button "Build Scene from Panorama" in a window of 1600 × 900, from its lower left corner.
BUTTON = (1155, 458)
seen: dict = {}
#: What the status bar was drawn with while a job ran.
progress: set[str] = set()


def shot(name):
    if shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(Path(OUT) / f"{name}.png")], check=True)


def note_progress(_header, _context):
    if jobs.job is not None:
        progress.add(jobs.job.text)


def stands():
    """Return the objects, the world and the image count of the file."""
    return [sorted(thing.name for thing in bpy.data.objects), window().scene.world.name, len(bpy.data.images)]


def eye():
    region = view().spaces.active.region_3d
    return list(region.view_location + region.view_rotation @ Vector((0, 0, region.view_distance)))


def in_window(**given):
    return bpy.context.temp_override(window=window(), area=view(), **given)


def wait_for_job():
    ticks = 0
    while jobs.job is not None:
        ticks += 1
        yield 0.2
    yield 1.5
    return ticks


def steps():
    bpy.context.preferences.addons[EXTENSION].preferences.folder = FOLDER
    settings = bpy.context.scene.panoform
    settings.source, settings.filepath, settings.quality = "FILE", PANORAMA, "draft"
    settings.maps = {"DISTANCE", "ALBEDO"}
    bpy.ops.ed.undo_push(message="settings")
    yield from press("ESC")  # closes the splash screen
    view().spaces.active.show_region_ui = True
    yield 0.5
    sidebar = next(region for region in view().regions if region.type == "UI")
    sidebar.active_panel_category = "Panoform"
    sidebar.tag_redraw()
    yield 1.0
    shot("1 before")

    shading = view().spaces.active.shading
    seen["before"], seen["view before"], seen["shading"] = stands(), eye(), [shading.type]
    yield from press("LEFTMOUSE", at=BUTTON)
    seen["pressed"] = jobs.job is not None
    bpy.types.STATUSBAR_HT_header.append(note_progress)
    yield 4.0
    shot("2 at work")
    seen["ticks at work"] = yield from wait_for_job()
    seen["status bar"] = len(progress)
    seen["failure"] = jobs.failure and jobs.failure.details
    seen["built"] = stands()
    seen["inside"] = eye()
    seen["shading"].append(shading.type)
    yield 20.0  # shaders compile
    shot("3 built")
    with in_window():
        bpy.ops.panoform.leave_environment()
    seen["view again"] = eye()
    seen["shading"].append(shading.type)
    yield 1.0
    yield from press("Z", ctrl=True)
    seen["undone"] = stands()
    yield from press("Z", ctrl=True, shift=True)
    seen["redone"] = stands()
    yield from press("Z", ctrl=True)

    with in_window():
        window().view_layer.objects.active = bpy.data.objects["Cube"]
        bpy.ops.panoform.perceive()
        bpy.ops.object.mode_set(mode="EDIT")
    yield from wait_for_job()
    seen["in edit mode"] = stands()
    seen["waits for"] = jobs.results[0].waits_for
    shot("4 edit mode")
    yield from press("TAB")
    yield 1.0
    seen["out of edit mode"] = stands()
    yield from press("Z", ctrl=True)
    seen["undone again"] = stands()

    with in_window():
        seen["returned at once"] = "FINISHED" in bpy.ops.panoform.render_panorama(width=64, samples=1)
    seen["rendering"] = jobs.job is not None
    yield from wait_for_job()
    seen["rendered"] = window().scene.panoform.image.size[:]
    seen["scenes"] = len(bpy.data.scenes)

    with in_window():
        bpy.ops.panoform.perceive(source="FILE", filepath=PANORAMA)
        bpy.ops.wm.read_homefile()
    yield from wait_for_job()
    seen["in another file"] = stands()
    with in_window():
        bpy.ops.panoform.build_result("EXEC_DEFAULT", True, index=0)
    seen["built there"] = stands()

    with in_window():
        bpy.ops.panoform.perceive(source="FILE", filepath=PANORAMA)  # running when Blender quits
    seen["backend"] = jobs.session.status.pid


run(steps(), seen, Path(OUT))
