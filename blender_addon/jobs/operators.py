"""The operators for jobs and results of all kinds."""

from __future__ import annotations

from typing import ClassVar

import bpy
from bpy.props import IntProperty

from ..ui.operator_parts import FINISHED, build_and_report, build_disabled_reason, poll_unless, reporting
from .manager import find_scene, jobs


class PANOFORM_OT_build_result(bpy.types.Operator):
    """Build this result in its scene, or in the active scene if it is already built or its scene no longer exists"""

    bl_idname = "panoform.build_result"
    bl_label = "Build Result"
    bl_options: ClassVar = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    poll = poll_unless(build_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        result = jobs.results[self.index]
        scene = None if result.built else find_scene(result.spec.scene_uid)
        build_and_report(self, result, scene or context.scene)
        return FINISHED


class PANOFORM_OT_forget_result(bpy.types.Operator):
    """Remove this result from memory. Objects built from it stay"""

    bl_idname = "panoform.forget_result"
    bl_label = "Remove Result"
    bl_options: ClassVar = {"INTERNAL"}

    index: IntProperty(min=0)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        del jobs.results[self.index]
        return FINISHED


class PANOFORM_OT_cancel(bpy.types.Operator):
    """Cancel the running job or the setup"""

    bl_idname = "panoform.cancel"
    bl_label = "Cancel"

    poll = poll_unless(lambda: "" if jobs.job or jobs.setup else "No job is running")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.cancel()
        return FINISHED


CLASSES = (PANOFORM_OT_build_result, PANOFORM_OT_forget_result, PANOFORM_OT_cancel)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
