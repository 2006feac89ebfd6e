"""Run in Blender's window, as a new user would: install the zip, set up, press, cancel, undo, save, reopen, uninstall.

Started with --enable-event-simulate and -- OUT ZIP WHEELS FOLDER. Writes what it saw to OUT/seen.json, pictures of the
window beside it, and the file that it saves.
"""

import sys
import time
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from window_runner import EXTENSION, in_view, press, run, screenshot, view, window

OUT, ZIP, WHEELS, FOLDER = map(Path, sys.argv[sys.argv.index("--") + 1 :])
#: Centres of the buttons in a window of 1600 × 900, in pixels from its lower left corner.
SET_UP, BUILD = (1165, 745), (1150, 410)
#: Seconds in which Blender compiles shaders.
COMPILED_S = 20.0
seen: dict = {"seconds": {}}


def shot(name: str) -> None:
    screenshot(OUT / f"{name}.png")


def manager():
    return sys.modules[f"{EXTENSION}.blender_addon.jobs.manager"].jobs


def took(name: str, began: float) -> None:
    seen["seconds"][name] = round(time.monotonic() - began, 1)


def sidebar():
    return next(region for region in view().regions if region.type == "UI")


def drawn():
    """Let the tab be drawn; sections below one that changes its height move with later redraws."""
    for _ in range(4):
        sidebar().tag_redraw()
        yield 0.5


def show_tab():
    view().spaces.active.show_region_ui = True
    yield 1.0
    sidebar().active_panel_category = "Panoform"
    yield from drawn()


def stands():
    """Return the names of what the file has."""
    return [sorted(thing.name for thing in bpy.data.objects), window().scene.world.name, len(bpy.data.images)]


def wait(busy):
    """Wait while `busy`; return the longest time in seconds in which the tab showed the same progress."""
    shown, since, longest = None, time.monotonic(), 0.0
    while busy():
        setup, job = manager().setup, manager().job
        now = (setup.bar_text, setup.status) if setup else (job.fraction, job.bar_text) if job else None
        if now != shown:
            shown, since = now, time.monotonic()
        longest = max(longest, time.monotonic() - since)
        yield 0.2
    return round(longest, 1)


def at_work():
    return manager().setup is not None or manager().job is not None


def steps():
    yield from press("ESC")  # closes the splash screen
    began = time.monotonic()
    with in_view():
        bpy.ops.extensions.package_install_files(
            "EXEC_DEFAULT", filepath=str(ZIP), repo="user_default", enable_on_install=True
        )
    while EXTENSION not in bpy.context.preferences.addons:
        yield 0.2
    took("install", began)
    own = bpy.context.preferences.addons[EXTENSION].preferences
    own.folder, own.packages = str(FOLDER), str(WHEELS)
    yield from show_tab()
    shot("1 installed")

    pressed = time.monotonic()
    yield from press("LEFTMOUSE", at=SET_UP)
    seen["set-up began"] = manager().setup is not None
    yield 20.0
    shot("2 setting up")
    seen["longest still"] = yield from wait(at_work)
    took("set-up", pressed)
    seen["set-up failure"] = manager().failure and manager().failure.details
    yield 2.0
    shot("3 set up")

    files = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    settings = window().scene.panoform
    settings.source, settings.filepath = "FILE", str(files / "interior.exr")
    bpy.ops.ed.undo_push(message="settings")
    yield from drawn()
    seen["before"] = stands()
    pressed = time.monotonic()
    yield from press("LEFTMOUSE", at=BUILD)
    seen["pressed"] = manager().job is not None
    yield 3.0
    shot("4 at work")
    yield from wait(at_work)
    for _ in range(100):
        if stands() != seen["before"]:
            break
        yield 0.1
    took("first result", pressed)
    took("from the zip", began)
    seen["failure"] = manager().failure and manager().failure.details
    seen["built"] = stands()
    yield COMPILED_S
    shot("5 inside")

    yield from press("LEFTMOUSE", at=BUILD)
    yield 2.0
    with in_view():
        bpy.ops.panoform.cancel()
    yield from wait(at_work)
    seen["cancelled"] = manager().failure.error.message
    seen["after cancel"] = stands()
    yield 1.0
    shot("6 cancelled")
    yield from press("Z", ctrl=True)
    seen["undone"] = stands()
    yield from press("Z", ctrl=True, shift=True)
    seen["redone"] = stands()

    saved = OUT / "größe of a room.blend"
    with in_view():
        bpy.ops.wm.save_as_mainfile("EXEC_DEFAULT", filepath=str(saved))
        bpy.ops.wm.read_homefile()
    yield 1.0
    with in_view():
        bpy.ops.wm.open_mainfile(filepath=str(saved))
    yield 2.0
    seen["reopened"] = stands()
    seen["not packed"] = [
        image.name for image in bpy.data.images if image.source == "FILE" and image.packed_file is None
    ]
    with in_view():
        bpy.ops.panoform.enter_environment()
    yield COMPILED_S
    shot("7 reopened")

    with in_view():
        bpy.ops.panoform.remove_backend("EXEC_DEFAULT")
    yield from wait(at_work)
    seen["left of the environment"] = sorted(path.name for path in FOLDER.iterdir())
    yield 1.0
    shot("8 removed")
    repositories = bpy.context.preferences.extensions.repos
    index = next(index for index, repository in enumerate(repositories) if repository.module == "user_default")
    with in_view():
        bpy.ops.extensions.package_uninstall("EXEC_DEFAULT", repo_index=index, pkg_id="panoform")
    while EXTENSION in bpy.context.preferences.addons:
        yield 0.2
    yield 2.0
    seen["settings left"] = hasattr(bpy.types.Scene, "panoform")
    seen["after uninstalling"] = stands()
    shot("9 uninstalled")


run(steps(), seen, OUT)
