"""Helpers for scripts in Blender's window (--enable-event-simulate): simulate key and mouse events, run steps.

Steps are a generator that yields the seconds to wait before it goes on, while the window lives on.
"""

import json
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy

EXTENSION = "bl_ext.user_default.panoform"


def window():
    return bpy.context.window_manager.windows[0]


def view():
    return next(area for area in window().screen.areas if area.type == "VIEW_3D")


def in_view():
    """Return a context in the first 3D View."""
    region = next(region for region in view().regions if region.type == "WINDOW")
    return bpy.context.temp_override(window=window(), area=view(), region=region)


def screenshot(path: Path) -> None:
    """Write a picture of the screen, where ImageMagick is installed."""
    if shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(path)], check=True)


def press(kind: str, at: tuple[int, int] | None = None, **modifiers: bool) -> Iterator[float]:
    """Press a key or mouse button, at pixels from the window's lower left (default: centre of the 3D View)."""
    x, y = at or (view().x + view().width // 2, view().y + view().height // 2)
    window().event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    yield 0.3
    window().event_simulate(type=kind, value="PRESS", x=x, y=y, **modifiers)
    yield 0.1
    window().event_simulate(type=kind, value="RELEASE", x=x, y=y, **modifiers)
    yield 1.0


def run(steps: Iterator[float], seen: dict, out: Path) -> None:
    """Run `steps`, then write `seen`, which they fill, to out/seen.json and quit, also on failure."""

    def write() -> None:
        part = out / "part.json"
        part.write_text(json.dumps(seen))
        part.replace(out / "seen.json")

    def tick() -> float | None:
        try:
            return next(steps)
        except StopIteration:
            write()
            bpy.ops.wm.quit_blender()
        except BaseException:
            seen["error"] = traceback.format_exc()
            write()
            time.sleep(1)
            os._exit(3)

    bpy.app.timers.register(tick, first_interval=2.0, persistent=True)
