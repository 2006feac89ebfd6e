"""What the operators have in common.

In a window they return at once, and the timer of jobs/timer.py does the rest; in the background (and in the bpy module)
they block until done and raise on failure, as bpy's own operators do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import bpy

from ...shared.protocol.errors import PanoformError
from ..capture.picture import Picture
from ..capture.render import Render
from ..capture.sources import Capture
from ..jobs import timer
from ..jobs.manager import State, find_scene, jobs
from ..jobs.specs import JobSpec, Result

FINISHED, CANCELLED = {"FINISHED"}, {"CANCELLED"}

#: Samples of a render that becomes a panorama or a picture.
RENDER_SAMPLES = 64


def poll_unless(why_not: Callable[[], str]) -> classmethod:
    """Return the `poll` of an operator that is disabled, with a poll message, wherever `why_not` has a reason."""

    def poll(cls: type[bpy.types.Operator], _context: bpy.types.Context) -> bool:
        reason = why_not()
        if reason:
            cls.poll_message_set(reason)
        return not reason

    return classmethod(poll)


def reporting(execute: Callable) -> Callable:
    """Wrap an `execute` so that its PanoformError is reported; called from Python, the operator raises RuntimeError."""

    @functools.wraps(execute)
    def reported(self: bpy.types.Operator, context: bpy.types.Context) -> set[str]:
        try:
            return execute(self, context)
        except PanoformError as error:
            jobs.fail(error)
            timer.start()  # it redraws the panel
            self.report({"ERROR"}, str(error))
            return CANCELLED

    return reported


def property_or_setting(operator: bpy.types.Operator, name: str, *settings: bpy.types.PropertyGroup):
    """Return the operator's own property where a script set it, else that of the first settings that have it."""
    if operator.properties.is_property_set(name):
        return getattr(operator, name)
    return getattr(next(group for group in settings if name in group.bl_rna.properties), name)


def why_not_begin() -> str:
    """Return why no job can begin now; "" where one can."""
    if jobs.job is not None:
        return "Panoform works on one panorama already"
    match jobs.state:
        case State.SETTING_UP:
            return "The backend is being set up"
        case State.NOT_SET_UP if not bpy.app.background:
            return "The backend is not set up yet"
        case State.OUT_OF_DATE if not bpy.app.background:
            return "The backend is of another version than the add-on: update it"
    return ""


def why_not_build() -> str:
    """Return why nothing can be built now; "" where it can: one Ctrl+Z undoes only what was built in Object Mode."""
    return "" if bpy.context.mode == "OBJECT" else "Only in Object Mode"


def run_job(operator: bpy.types.Operator, spec: JobSpec) -> set[str]:
    """Begin a job; in the background also wait for it, and build its result."""
    jobs.begin(spec)
    if not bpy.app.background:
        timer.start()
        return FINISHED
    build_and_report(operator, jobs.wait(), find_scene(spec.scene_uid))
    return FINISHED


def build_and_report(operator: bpy.types.Operator, result: Result, scene: bpy.types.Scene) -> None:
    """Build a result, and report what was done."""
    operator.report({"INFO"}, result.build(scene))
    if result.spec.forget_when_built:
        jobs.results.remove(result)


def start_render(render: Render) -> Capture | Picture | Render:
    """Return what the render makes: itself, begun, in a window; the result in the background."""
    if bpy.app.background:
        return render.run()
    render.start()
    return render
