"""The timer in a window: it calls `jobs.poll`, has results built, and redraws what shows them.

No exception ends it: Blender would not call it again, and the panel would stand still for good.

There is no timer in the background: it would never fire, and one left behind crashes Blender's exit.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import bpy

from ..generate import world_preview
from ..ui import previews
from .manager import Job, find_scene, jobs

#: Seconds between two looks: while something is going on, and while an idle backend is only kept an eye on.
BUSY_S, IDLE_S = 0.1, 1.0
#: A panel that grows pushes those below it away only while it is drawn again: this often, once a tick.
REDRAWS = 4
#: What was drawn last, and how often it is still to be drawn.
_shown: tuple = ()
_redraws = 0
#: Where a step of the last tick failed, by its name: what fails at every tick is told once.
_failed: dict[str, tuple] = {}


def start() -> None:
    """Have `jobs` polled from now on. Called by whatever begins something."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)


def register() -> None:
    """Do nothing: whatever begins something calls `start`."""


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)


def _tick() -> float | None:
    steps = (jobs.poll, _end_preview, _build_what_came, _show, _interval)
    said = [_try(step) for step in steps]
    return IDLE_S if _failed else said[-1]


def _try(step: Callable[[], Any]) -> Any:
    """What the step returns; where it fails, that is the failure that the panel shows."""
    try:
        returned = step()
    except Exception as error:
        where = (type(error), *traceback.format_tb(error.__traceback__))
        if _failed.get(step.__name__) != where:
            _failed[step.__name__] = where
            jobs.fail(error)
        return None
    _failed.pop(step.__name__, None)
    return returned


def _end_preview() -> None:
    if jobs.job is None:
        world_preview.end()


def _show() -> None:
    """Redraw what shows something else by now."""
    global _shown, _redraws
    if _shown != _drawn():
        _shown, _redraws = _drawn(), REDRAWS
        if jobs.job is not None:
            _show_previews(jobs.job)
    if _redraws:
        _redraws -= 1
        _redraw()


def _interval() -> float | None:
    """Seconds until the next tick; None: nothing is left to wait for."""
    if _redraws or jobs.busy or world_preview.lasts() or any(result.pending for result in jobs.results):
        return BUSY_S
    return IDLE_S if jobs.session is not None else None


def _show_previews(job: Job) -> None:
    """Show them in the panel; where the spec says so, the newest also as its scene's world."""
    for name, picture in job.previews.items():
        previews.show(name, picture)
    scene, pose = find_scene(job.spec.scene_uid), job.spec.preview_pose()
    if pose is not None and job.previews and scene is not None:
        world_preview.show(scene, picture, pose)


def _build_what_came() -> None:
    """Have results built by their operator, one undo step each, once the user's hands are free."""
    for result in list(jobs.results):
        if not result.pending:
            continue
        if find_scene(result.spec.scene_uid) is None:
            result.pending = False  # its file was closed, or the scene deleted: it waits in the panel
            continue
        result.waits_for = _what_keeps_the_user()
        if result.waits_for:
            continue
        result.pending = False
        failure = jobs.failure
        windows = bpy.context.window_manager.windows
        window = next((w for w in windows if w.scene.session_uid == result.spec.scene_uid), windows[0])
        try:
            with bpy.context.temp_override(window=window):
                bpy.ops.panoform.build_result("EXEC_DEFAULT", True, index=jobs.results.index(result))
        except Exception as error:
            if jobs.failure is failure:  # else it is what the operator reported
                jobs.fail(error)


def _what_keeps_the_user() -> str:
    """Why the scene can't be changed right now: an undo step made in the midst of these would not take it back."""
    if bpy.app.is_job_running("RENDER"):
        return "the render to end"
    for window in bpy.context.window_manager.windows:
        if any(operator.bl_idname.startswith("TRANSFORM_OT_") for operator in window.modal_operators):
            return "the move to end"
        active = window.view_layer.objects.active
        if active is not None and active.mode != "OBJECT":
            return "Object Mode"
    return ""


def _drawn() -> tuple:
    """What the panel shows of all this."""
    session, setup, job = jobs.session, jobs.setup, jobs.job
    return (
        jobs.failure,
        session and (session, session.status),
        setup and (setup.status, setup.fraction),
        job and (job.text, job.fraction, tuple(map(id, job.previews.values()))),
        tuple((result.waits_for, result.built) for result in jobs.results),
    )


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            for region in area.regions:
                if (area.type, region.type) in {("VIEW_3D", "UI"), ("PREFERENCES", "WINDOW")}:
                    region.tag_redraw()
