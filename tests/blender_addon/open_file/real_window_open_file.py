"""Run in Blender's window: drag a panorama from a File Browser into the 3D View, use it as the world, and open the
File Browser's context menu.

Started with --enable-event-simulate and -- OUT FOLDER. Writes OUT/seen.json, and pictures where it can.
"""

import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parents[1]))
from window_runner import press, run, screenshot, view, window

OUT, FOLDER = (Path(argument) for argument in sys.argv[sys.argv.index("--") + 1 :])
seen: dict = {}


def move(x: int, y: int) -> None:
    window().event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)


def steps():
    bpy.context.preferences.view.show_splash = False
    yield from press("ESC")
    browser = next(area for area in window().screen.areas if area.type == "PROPERTIES")
    browser.ui_type = "FILES"
    browser.spaces[0].show_region_toolbar = False
    yield 2.0
    parameters = browser.spaces[0].params
    parameters.directory, parameters.display_type = str(FOLDER).encode(), "THUMBNAIL"
    parameters.use_filter = False
    yield 2.0
    region = next(region for region in browser.regions if region.type == "WINDOW")
    at = region.x + 60, region.y + region.height - 60
    yield from press("LEFTMOUSE", at)
    screenshot(OUT / "files.png")
    yield from press("RIGHTMOUSE", at)
    yield 1.0
    screenshot(OUT / "context.png")
    yield from press("ESC")
    move(at[0] - 5, at[1])
    yield 0.5
    move(*at)
    yield 0.5
    window().event_simulate(type="LEFTMOUSE", value="PRESS", x=at[0], y=at[1])
    yield 0.5
    to = view().x + view().width // 2, view().y + view().height // 2
    for step in (0, 1, 2, 3, 5, 8, 20, 40, 60, 80, 99, 100):
        move(*(round(a + (b - a) * step / 100) for a, b in zip(at, to, strict=True)))
        yield 0.2
    screenshot(OUT / "dragged.png")
    window().event_simulate(type="LEFTMOUSE", value="RELEASE", x=to[0], y=to[1])
    yield 2.0
    screenshot(OUT / "dropped.png")
    yield from press("RET", to)  # Blender's menu: Use in Panoform
    yield 1.0
    screenshot(OUT / "uses.png")
    yield from press("RET", to)  # Use as World
    yield 3.0
    world = bpy.context.scene.world
    seen["world"] = world.name if world else None
    seen["objects"] = [found.name for found in bpy.data.objects]


run(steps(), seen, OUT)
