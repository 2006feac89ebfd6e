"""Parts shared by the operators.

In a window they return at once, and the timer in jobs/timer.py finishes the job; in background mode (and in the bpy
module) they block until the job is done and raise on failure, as bpy's own operators do.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable

import bpy

from ...shared.protocol.errors import PanoformError
from ..capture import colour_management
from ..capture.render import Render, ResultT
from ..jobs import timer
from ..jobs.manager import State, find_scene, jobs
from ..jobs.specs import JobSpec, Result, counted
from ..perceive import look_around
from ..translation import tr_report

FINISHED, CANCELLED = {"FINISHED"}, {"CANCELLED"}

#: Poll message of the operators that can't wait for a job.
JOB_RUNNING = "Another Panoform job is running"


def poll_unless(disabled_reason: Callable[[], str]) -> classmethod:
    """Return a `poll` that fails, with a poll message, while `disabled_reason` returns one."""

    def poll(cls: type[bpy.types.Operator], _context: bpy.types.Context) -> bool:
        reason = disabled_reason()
        if reason:
            cls.poll_message_set(reason)
        return not reason

    return classmethod(poll)


def reporting(execute: Callable) -> Callable:
    """Wrap `execute` to report an exception; called from Python, the operator then raises RuntimeError.

    The operator sees the scene's own world and views, not the picture that the user looks around in.
    """

    @functools.wraps(execute)
    def reported(self: bpy.types.Operator, context: bpy.types.Context) -> set[str]:
        try:
            look_around.stop()
            return execute(self, context)
        except BaseException as error:
            jobs.fail(error)
            timer.start()  # redraws the panel
            if not isinstance(error, Exception):  # Ctrl+C, or the end of Blender
                raise
            if not isinstance(error, PanoformError):
                traceback.print_exception(error)
            self.report({"ERROR"}, str(jobs.failure.error))
            return CANCELLED

    return reported


def property_or_setting(operator: bpy.types.Operator, name: str, *settings: bpy.types.PropertyGroup):
    """Return the operator's property if it is set, else `setting`."""
    return getattr(operator, name) if operator.properties.is_property_set(name) else setting(name, *settings)


def setting(name: str, *settings: bpy.types.PropertyGroup):
    """Return the property of the first of `settings` that has it."""
    return getattr(next(group for group in settings if name in group.bl_rna.properties), name)


def job_disabled_reason() -> str:
    """Return why no job can be started or wait for others now; "" if one can."""
    match jobs.state:
        case State.SETTING_UP:
            return "The backend is being set up or removed"
        case State.NOT_SET_UP if not bpy.app.background:
            return "The backend is not set up yet"
        case State.OUT_OF_DATE if not bpy.app.background:
            return "The backend's version does not match the add-on: update it"
    return ""


def build_disabled_reason() -> str:
    """Return why nothing can be built now; "" if it can: only in Object Mode is building a single undo step."""
    return "" if bpy.context.mode == "OBJECT" else "Only available in Object Mode"


def run_job(operator: bpy.types.Operator, spec: JobSpec) -> set[str]:
    """Start a job or let it wait for others; in background mode also wait for it and build its result.

    Raise SceneError where its result could not be built with Blender's colour management.
    """
    colour_management.check()
    if not bpy.app.background:
        ahead = jobs.submit(spec)
        if ahead:
            operator.report({"INFO"}, tr_report("Waiting for {jobs}", jobs=counted(ahead, "job")))
        timer.start()
        return FINISHED
    jobs.begin(spec)
    build_and_report(operator, jobs.wait(), find_scene(spec.scene_uid))
    return FINISHED


def build_and_report(operator: bpy.types.Operator, result: Result, scene: bpy.types.Scene) -> None:
    """Build a result and report what was done."""
    operator.report({"INFO"}, result.build(scene))
    if result.spec.remove_when_built:
        jobs.results.remove(result)


def start_render(render: Render[ResultT]) -> ResultT | Render[ResultT]:
    """Start the render and return it; in background mode, return its result instead."""
    if bpy.app.background:
        return render.run()
    render.start()
    return render


def relay(operator: bpy.types.Operator, run: Callable[[], object]) -> bool:
    """Run another operator; report its error as this operator's. Return whether there was none."""
    try:
        run()
    except RuntimeError as error:  # how bpy.ops passes on a report of an error
        operator.report({"ERROR"}, str(error).removeprefix("Error: ").strip())
        return False
    return True
