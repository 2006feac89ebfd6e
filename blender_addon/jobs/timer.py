"""The timer in a window: it calls `jobs.poll`, builds results and redraws the panel.

It catches all exceptions, because Blender unregisters a timer that raises, and the panel would no longer update.

There is no timer in background mode: it would never fire, and a timer left registered crashes Blender on exit.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import bpy

from ...shared.protocol.errors import PanoformError
from ..generate import world_preview
from ..perceive import look_around
from ..ui import previews
from . import status_bar
from .job import Job
from .manager import find_scene, jobs

#: Seconds between two ticks: while something is in progress, and while the backend is idle.
BUSY_S, IDLE_S = 0.1, 1.0
#: Number of redraws, one a tick, after a change: panels below one that grows move only with later redraws.
REDRAWS = 4
#: The panel's state at the last change, and the number of redraws left.
_drawn_state: tuple = ()
_redraws = 0
#: Tracebacks of the steps that failed in the last tick, by name: a repeated failure is reported once.
_failed: dict[str, tuple] = {}


def start() -> None:
    """Register the timer. Called by everything that starts a job or a process."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)


def start_early() -> None:
    """Start the backend soon, if it may start before there is a job. Called when the panel is drawn."""
    if not bpy.app.background and jobs.can_start_early and not bpy.app.timers.is_registered(_start_early):
        bpy.app.timers.register(_start_early, persistent=True)


def _start_early() -> None:
    """Start the backend, which is not done while Blender draws."""
    try:
        if jobs.can_start_early:
            jobs.start(warm_up=True)
    except PanoformError as error:
        jobs.fail(error)
    start()


def register() -> None:
    """Do nothing: the timers are registered by `start` and `start_early`."""


def unregister() -> None:
    for timer in (_tick, _start_early):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)


def _tick() -> float | None:
    steps = (jobs.poll, _remove_preview, _build_pending, _update_panel, _interval)
    returned = [_try(step) for step in steps]
    return IDLE_S if _failed else returned[-1]


def _try(step: Callable[[], Any]) -> Any:
    """Run a step and return its result; report an exception in the panel."""
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


def _remove_preview() -> None:
    if jobs.job is not None:
        look_around.stop()  # the job may have a preview of its own
    elif not look_around.is_active():
        world_preview.remove()


def _update_panel() -> None:
    """Redraw the panel if its state has changed."""
    global _drawn_state, _redraws
    if _drawn_state != _state():
        _drawn_state, _redraws = _state(), REDRAWS
        if jobs.job is not None:
            _show_previews(jobs.job)
    if _redraws:
        _redraws -= 1
        _redraw()


def _interval() -> float | None:
    """Return the seconds until the next tick; None to stop the timer."""
    if (
        _redraws
        or jobs.busy
        or (world_preview.exists() and not look_around.is_active())
        or any(result.pending for result in jobs.results)
    ):
        return BUSY_S
    return IDLE_S if jobs.session is not None else None


def _show_previews(job: Job) -> None:
    """Show the previews in the panel, and if the job has a preview pose, the newest also as its scene's world."""
    for name, picture in job.previews.items():
        previews.show(name, picture)
    scene, pose = find_scene(job.spec.scene_uid), job.spec.preview_pose()
    if pose is not None and job.previews and scene is not None:
        newest = next(reversed(job.previews.values()))
        world_preview.show(scene, newest, pose)


def _build_pending() -> None:
    """Build pending results by their operator, one undo step each, once nothing blocks it."""
    for result in list(jobs.results):
        if not result.pending:
            continue
        scene = find_scene(result.spec.scene_uid)
        if not result.spec.changes_file:
            jobs.results.remove(result)
            if scene is not None:
                result.build(scene)
            continue
        if scene is None:
            result.pending = False  # its file was closed or the scene deleted: it stays in the panel
            continue
        result.waits_for = _blocked_by()
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
            if jobs.failure is failure:  # else the operator has reported it
                jobs.fail(error)


def _blocked_by() -> str:
    """Return what must end before building; "" if nothing: an undo step made during these would not undo it."""
    if bpy.app.is_job_running("RENDER"):
        return "the render to end"
    for window in bpy.context.window_manager.windows:
        if any(operator.bl_idname.startswith("TRANSFORM_OT_") for operator in window.modal_operators):
            return "the transform to end"
        active = window.view_layer.objects.active
        if active is not None and active.mode != "OBJECT":
            return "Object Mode"
    return ""


def _state() -> tuple:
    """Return the state that the panel shows."""
    session, setup, job = jobs.session, jobs.setup, jobs.job
    return (
        jobs.failure,
        session and (session, session.status),
        setup and (setup.status, setup.bar_text),
        job and (job.bar_text, job.fraction, tuple(map(id, job.previews.values()))),
        jobs.patience,
        (jobs.queue.held, [(spec.number, spec.is_rendering) for spec in jobs.queue]),
        tuple((result.waits_for, result.built) for result in jobs.results),
    )


def _redraw() -> None:
    status_bar.redraw()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            for region in area.regions:
                if (area.type, region.type) in {("VIEW_3D", "UI"), ("PREFERENCES", "WINDOW")}:
                    region.tag_redraw()
