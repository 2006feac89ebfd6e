"""The timer in a window: it asks for the state of the models, polls their backend and redraws the preferences."""

from __future__ import annotations

import bpy

from ...shared.protocol.errors import PanoformError
from ..jobs.manager import State, jobs
from .manager import Models, models

BUSY_S, IDLE_S = 0.2, 5.0
#: What was drawn last.
_drawn: tuple = ()


def start() -> None:
    """Register the timer. Called by everything that starts a check or a download."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)


def check_when_shown() -> None:
    """Ask for the state soon, if it isn't known for these settings. Called when the page is drawn."""
    if not models.is_current and not bpy.app.background and jobs.state in (State.STOPPED, State.STARTING, State.READY):
        start()


def _tick() -> float | None:
    """Poll. Errors are shown on the page, so that the timer goes on."""
    try:
        if not models.is_current:
            models.check()
        models.poll()
    except PanoformError as error:
        models.failures[""] = error
    _redraw_changes(models)
    return BUSY_S if models.tasks else IDLE_S if models.is_running else None


def _redraw_changes(shown: Models) -> None:
    global _drawn
    now = (shown.state, tuple((task, task.text, task.fraction) for task in shown.tasks), tuple(shown.failures.values()))
    if now == _drawn:
        return
    _drawn = now
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()


def register() -> None:
    """Do nothing: the timer is registered by `start`."""


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
