"""The operators for jobs and results of all kinds."""

from __future__ import annotations

from typing import ClassVar

import bpy
from bpy.props import IntProperty

from ..ui.operator_parts import (
    CANCELLED,
    FINISHED,
    JOB_RUNNING,
    build_and_report,
    build_disabled_reason,
    job_disabled_reason,
    poll_unless,
    reporting,
)
from . import timer
from .manager import find_scene, jobs
from .specs import JobSpec


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


class PANOFORM_OT_retry_job(bpy.types.Operator):
    """Start the job that failed or was cancelled again, with the same settings"""

    bl_idname = "panoform.retry_job"
    bl_label = "Try Again"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(lambda: job_disabled_reason() or _retry_disabled_reason())

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.retry()
        timer.start()
        return FINISHED


def _retry_disabled_reason() -> str:
    if jobs.failure is None or jobs.failure.job is None:
        return "No job has failed"
    return JOB_RUNNING if jobs.job is not None else ""


class _WaitingJob:
    """An operator on a job that waits. If it has started since its button was drawn, nothing happens."""

    bl_options: ClassVar = {"INTERNAL"}

    number: IntProperty()

    def execute(self, _context: bpy.types.Context) -> set[str]:
        spec = next((spec for spec in jobs.queue if spec.number == self.number), None)
        if spec is None:
            return CANCELLED
        self.change(spec)
        return FINISHED


class PANOFORM_OT_remove_waiting_job(_WaitingJob, bpy.types.Operator):
    """Remove this job from the queue"""

    bl_idname = "panoform.remove_waiting_job"
    bl_label = "Remove Job"

    def change(self, spec: JobSpec) -> None:
        jobs.queue.remove(spec)


class PANOFORM_OT_move_waiting_job(_WaitingJob, bpy.types.Operator):
    """Run this job one place earlier"""

    bl_idname = "panoform.move_waiting_job"
    bl_label = "Move Job Up"

    def change(self, spec: JobSpec) -> None:
        jobs.queue.move_up(spec)


class PANOFORM_OT_clear_queue(bpy.types.Operator):
    """Remove all jobs that wait. The running job goes on"""

    bl_idname = "panoform.clear_queue"
    bl_label = "Clear Queue"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.queue.clear()
        return FINISHED


class PANOFORM_OT_resume_queue(bpy.types.Operator):
    """Run the jobs that wait"""

    bl_idname = "panoform.resume_queue"
    bl_label = "Resume"

    poll = poll_unless(lambda: "" if jobs.queue else "No job waits")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.queue.held = False
        timer.start()
        return FINISHED


CLASSES = (
    PANOFORM_OT_build_result,
    PANOFORM_OT_forget_result,
    PANOFORM_OT_cancel,
    PANOFORM_OT_retry_job,
    PANOFORM_OT_remove_waiting_job,
    PANOFORM_OT_move_waiting_job,
    PANOFORM_OT_clear_queue,
    PANOFORM_OT_resume_queue,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
