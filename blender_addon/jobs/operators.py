"""The operators for jobs and their results, of whatever kind."""

from __future__ import annotations

from typing import ClassVar

import bpy
from bpy.props import IntProperty

from ..ui.operator_parts import FINISHED, build_and_report, poll_unless, reporting, why_not_build
from .manager import find_scene, jobs


class PANOFORM_OT_build_result(bpy.types.Operator):
    """Build this result in the scene that it was asked for; once it is there, or that is gone, in this scene"""

    bl_idname = "panoform.build_result"
    bl_label = "Build Result"
    bl_options: ClassVar = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    poll = poll_unless(why_not_build)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        result = jobs.results[self.index]
        scene = None if result.built else find_scene(result.spec.scene_uid)
        build_and_report(self, result, scene or context.scene)
        return FINISHED


class PANOFORM_OT_forget_result(bpy.types.Operator):
    """Free the memory of this result. What was built stays"""

    bl_idname = "panoform.forget_result"
    bl_label = "Forget Result"
    bl_options: ClassVar = {"INTERNAL"}

    index: IntProperty(min=0)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        del jobs.results[self.index]
        return FINISHED


class PANOFORM_OT_cancel(bpy.types.Operator):
    """Stop what Panoform is doing"""

    bl_idname = "panoform.cancel"
    bl_label = "Cancel"

    poll = poll_unless(lambda: "" if jobs.job or jobs.setup else "Nothing is under way")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.cancel()
        return FINISHED


CLASSES = (PANOFORM_OT_build_result, PANOFORM_OT_forget_result, PANOFORM_OT_cancel)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
