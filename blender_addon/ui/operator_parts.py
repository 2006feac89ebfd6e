"""What the operators have in common.

In a window they return at once and pump.py does the rest; in the background (and in the bpy module) they block until
done and raise on failure, as bpy's own operators do.
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
from ..jobs.specs import GenerateOrder, Order, Result
from ..scene.results import build_result

FINISHED, CANCELLED = {"FINISHED"}, {"CANCELLED"}

#: Samples of a render that becomes a panorama or a picture.
RENDER_SAMPLES = 64


def greyed_by(why_not: Callable[[], str]) -> classmethod:
    """The `poll` of an operator that is greyed, and says why, wherever `why_not` has a reason ("": none)."""

    def poll(cls: type[bpy.types.Operator], _context: bpy.types.Context) -> bool:
        reason = why_not()
        if reason:
            cls.poll_message_set(reason)
        return not reason

    return classmethod(poll)


def reporting(execute: Callable) -> Callable:
    """An `execute` whose PanoformError is reported; called from Python, the operator then raises RuntimeError."""

    @functools.wraps(execute)
    def reported(self: bpy.types.Operator, context: bpy.types.Context) -> set[str]:
        try:
            return execute(self, context)
        except PanoformError as error:
            jobs.fail(error)
            timer.watch()  # it redraws the panel
            self.report({"ERROR"}, str(error))
            return CANCELLED

    return reported


def given(operator: bpy.types.Operator, name: str, *settings: bpy.types.PropertyGroup):
    """The operator's own property where a script gave it, else that of the first settings that have it."""
    if operator.properties.is_property_set(name):
        return getattr(operator, name)
    return getattr(next(group for group in settings if name in group.bl_rna.properties), name)


def why_not_begin() -> str:
    """Why nothing can be asked of the backend now; "" where it can."""
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
    """One Ctrl+Z takes back what was built only where it was built in Object Mode."""
    return "" if bpy.context.mode == "OBJECT" else "Only in Object Mode"


def carry_out(operator: bpy.types.Operator, order: Order) -> set[str]:
    """Begin; in the background also wait, and build."""
    jobs.begin(order)
    if not bpy.app.background:
        timer.watch()
        return FINISHED
    bring_in(operator, jobs.wait(), find_scene(order.scene_uid))
    return FINISHED


def bring_in(operator: bpy.types.Operator, result: Result, scene: bpy.types.Scene) -> None:
    """Build it. What is on disk then needs no memory."""
    operator.report({"INFO"}, build_result(result, scene))
    if isinstance(result.order, GenerateOrder):
        jobs.results.remove(result)


def rendered(render: Render) -> Capture | Picture | Render:
    """What it makes: under way in a window, done in the background."""
    if bpy.app.background:
        return render.run()
    render.start()
    return render
