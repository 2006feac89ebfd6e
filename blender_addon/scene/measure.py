"""One length that the user measures: two clicks on the environment and the true length set its scale."""

from __future__ import annotations

from typing import ClassVar

import bpy
import gpu
from bpy.props import FloatProperty
from bpy_extras.view3d_utils import location_3d_to_region_2d, region_2d_to_origin_3d, region_2d_to_vector_3d
from gpu_extras.batch import batch_for_shader
from mathutils import Vector

from ...shared.protocol.errors import SettingError
from ..translation import tr_report
from ..ui.operator_parts import CANCELLED, FINISHED, build_disabled_reason, poll_unless, reporting
from . import environment, scale
from .datablocks import all_or_nothing

#: Colour and width of the line, in pixels at UI scale 1.
_COLOUR, _WIDTH_PX = (1.0, 0.5, 0.1, 1.0), 3.0
_HELP = "Click both ends of a length that you know. Esc: cancel"


def _disabled_reason() -> str:
    return environment.disabled_reason() or build_disabled_reason()


def cast(context: bpy.types.Context, body: bpy.types.Object, origin: Vector, direction: Vector) -> Vector | None:
    """Return the point of an environment that a ray from `origin` hits first, in the world; None for none."""
    depsgraph = context.evaluated_depsgraph_get()
    hits = []
    for part in environment.parts(body):
        if part.type == "MESH" and part.visible_get():
            local = part.matrix_world.inverted()
            start = local @ origin
            found, place, *_ = part.evaluated_get(depsgraph).ray_cast(start, local @ (origin + direction) - start)
            if found:
                hits.append(part.matrix_world @ place)
    return min(hits, key=lambda hit: (hit - origin).length, default=None)


class PANOFORM_OT_set_scale(bpy.types.Operator):
    """Scale the environment so that a length that was measured in it has its true value"""

    bl_idname = "panoform.set_scale"
    bl_label = "Set Scale"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    measured: FloatProperty(
        name="Measured", description="The length in the scene as it is", subtype="DISTANCE", unit="LENGTH", min=0
    )
    length: FloatProperty(name="True Length", subtype="DISTANCE", unit="LENGTH", min=0)

    poll = poll_unless(_disabled_reason)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self.length = self.measured
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, _context: bpy.types.Context) -> None:
        self.layout.use_property_split = True
        self.layout.prop(self, "length")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.measured <= 0 or self.length <= 0:
            raise SettingError("A length of 0 gives no scale.", "Give the measured length and the true one.")
        context.view_layer.update()
        body = environment.find(context)
        factor = self.length / self.measured
        with all_or_nothing(context.scene, scale.restoring(body)):
            scale.apply(body, factor)
        self.report({"INFO"}, tr_report("Scaled {name!r} by {factor:.4g}.", name=body.name, factor=factor))
        return FINISHED


class PANOFORM_OT_measure_length(bpy.types.Operator):
    """Click both ends of a length in the environment, and enter its true value, to set the scale of the environment"""

    bl_idname = "panoform.measure_length"
    bl_label = "Measure a Length"

    poll = poll_unless(_disabled_reason)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        area = context.area
        if area is None or area.type != "VIEW_3D":
            self.report({"ERROR"}, "Run it in a 3D View.")
            return CANCELLED
        self._area = area
        self._region = next(region for region in area.regions if region.type == "WINDOW")
        self._points: list[Vector] = []
        self._end: Vector | None = None
        self._handle = bpy.types.SpaceView3D.draw_handler_add(self._draw, (), "WINDOW", "POST_PIXEL")
        area.header_text_set(_HELP)
        context.window.cursor_modal_set("CROSSHAIR")
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type in {"ESC", "RIGHTMOUSE"}:
            self._finish(context)
            return CANCELLED
        if event.type not in {"MOUSEMOVE", "LEFTMOUSE"} or not self._is_inside(event):
            return {"PASS_THROUGH"}  # the view can be turned
        if environment.find(context) is None:  # undone meanwhile
            self._finish(context)
            return CANCELLED
        self._end = self._hit(context, event)
        self._area.tag_redraw()
        if event.type == "LEFTMOUSE" and event.value == "PRESS" and self._end is not None:
            self._points.append(self._end)
            if len(self._points) == 2:
                self._finish(context)
                measured = (self._points[1] - self._points[0]).length
                bpy.ops.panoform.set_scale("INVOKE_DEFAULT", measured=measured)
                return FINISHED
        return {"RUNNING_MODAL"}

    def cancel(self, context: bpy.types.Context) -> None:
        self._finish(context)

    def _is_inside(self, event: bpy.types.Event) -> bool:
        """Return whether the mouse is over the view, not over a sidebar or another area."""
        over = [
            region
            for region in self._area.regions
            if region.x <= event.mouse_x < region.x + region.width
            and region.y <= event.mouse_y < region.y + region.height
        ]
        return over == [self._region]

    def _hit(self, context: bpy.types.Context, event: bpy.types.Event) -> Vector | None:
        place = event.mouse_x - self._region.x, event.mouse_y - self._region.y
        view = self._area.spaces.active.region_3d
        origin = region_2d_to_origin_3d(self._region, view, place)
        return cast(context, environment.find(context), origin, region_2d_to_vector_3d(self._region, view, place))

    def _draw(self) -> None:
        """Draw the line from the first point to the mouse, over what is in front of it."""
        region, view = bpy.context.region, bpy.context.region_data
        if not self._points or self._end is None or region != self._region:
            return
        ends = [location_3d_to_region_2d(region, view, point) for point in (self._points[0], self._end)]
        if None in ends:  # behind the viewer
            return
        shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
        batch = batch_for_shader(shader, "LINES", {"pos": [(*end, 0.0) for end in ends]})
        shader.bind()
        shader.uniform_float("viewportSize", (region.width, region.height))
        shader.uniform_float("lineWidth", _WIDTH_PX * bpy.context.preferences.system.ui_scale)
        shader.uniform_float("color", _COLOUR)
        gpu.state.blend_set("ALPHA")
        batch.draw(shader)
        gpu.state.blend_set("NONE")

    def _finish(self, context: bpy.types.Context) -> None:
        bpy.types.SpaceView3D.draw_handler_remove(self._handle, "WINDOW")
        self._area.header_text_set(None)
        self._area.tag_redraw()
        context.window.cursor_modal_restore()


CLASSES = (PANOFORM_OT_set_scale, PANOFORM_OT_measure_length)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
