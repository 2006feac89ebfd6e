"""Run in Blender's window: measure a length in a dome by two clicks, and cancel a second measurement.

Started with --enable-event-simulate and -- OUT FOLDER, which holds maps. Writes its results to OUT/seen.json and, where
it can, pictures of the window beside it.
"""

import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from window_runner import in_view, press, run, screenshot, view, window

OUT, FOLDER = sys.argv[sys.argv.index("--") + 1 :]
seen: dict = {}


def steps():
    yield from press("ESC")  # closes the splash screen
    with in_view():
        bpy.ops.panoform.build_scene(directory=FOLDER, kind="DOME")
    yield 3.0
    body = next(body for body in bpy.context.scene.objects if "panoform_scale" in body)
    seen["before"] = [body["panoform_scale_measured"], body.scale[0]]
    view().spaces.active.shading.type = "SOLID"  # drawn faster
    middle = view().x + view().width // 2, view().y + view().height // 2
    with in_view():
        seen["started"] = list(bpy.ops.panoform.measure_length("INVOKE_DEFAULT"))
    yield from press("LEFTMOUSE", (middle[0] - 150, middle[1]))
    window().event_simulate(type="MOUSEMOVE", value="NOTHING", x=middle[0] + 150, y=middle[1] + 60)
    yield 6.0
    screenshot(Path(OUT) / "line.png")
    yield from press("LEFTMOUSE", (middle[0] + 150, middle[1] + 60))
    screenshot(Path(OUT) / "dialog.png")
    yield from press("RET", (middle[0] + 150, middle[1] + 60))
    last = bpy.context.window_manager.operators[-1]
    seen["after"] = [body["panoform_scale_measured"], body.scale[0]]
    seen["last"] = [last.bl_idname, last.properties.measured, last.properties.length]
    with in_view():
        bpy.ops.panoform.measure_length("INVOKE_DEFAULT")
    yield from press("LEFTMOUSE", middle)
    yield from press("ESC", middle)
    seen["operators"] = [operator.bl_idname for operator in bpy.context.window_manager.operators].count(last.bl_idname)
    seen["modal"] = [operator.bl_idname for operator in window().modal_operators]


run(steps(), seen, Path(OUT))
