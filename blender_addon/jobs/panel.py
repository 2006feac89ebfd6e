"""The panels that list the jobs that wait, and results."""

from __future__ import annotations

import bpy

from ..translation import tr
from ..ui import previews
from ..ui.panel_parts import Section, characters, draw_text
from .manager import find_scene, jobs


class PANOFORM_PT_queue(Section, bpy.types.Panel):
    bl_label = "Queue"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 0

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return len(jobs.queue) > 0

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        if jobs.queue.held:
            draw_text(column, "The backend was stopped: these jobs wait.", characters(context), icon="PAUSE")
            column.operator("panoform.resume_queue", icon="PLAY")
        for place, spec in enumerate(jobs.queue):
            row = column.row(align=True)
            rendering = tr(" · rendering") if spec.is_rendering else ""
            row.label(text=f"{place + 1}. {tr(spec.label)}: {spec.name}{rendering}")
            up = row.row(align=True)
            up.enabled = place > 0
            up.operator("panoform.move_waiting_job", text="", icon="TRIA_UP").number = spec.number
            row.operator("panoform.remove_waiting_job", text="", icon="X").number = spec.number
        if len(jobs.queue) > 1:
            column.operator("panoform.clear_queue", icon="TRASH")


class PANOFORM_PT_results(Section, bpy.types.Panel):
    bl_label = "Results"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 9

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return bool(jobs.results)

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        for index, result in enumerate(jobs.results):
            row = column.row()
            picture = None if previews.exists(result.preview) else result.spec.thumbnail()
            if picture is not None:
                previews.show(result.preview, picture)
            if previews.exists(result.preview):
                row.template_icon(icon_value=previews.icon(result.preview), scale=2)
            icon = "CHECKMARK" if result.built else "TIME"
            row.label(text=f"{result.spec.name} · {result.spec.summary(result.reply)}", icon=icon)
            row.operator("panoform.build_result", text="", icon="ADD").index = index
            row.operator("panoform.forget_result", text="", icon="X").index = index
            if result.waits_for:
                column.label(text=tr("Ready: waiting for {what}", what=tr(result.waits_for)), icon="INFO")
            elif not result.built and not result.pending:
                gone = find_scene(result.spec.scene_uid) is None
                text = "Its scene no longer exists: press + to build it here" if gone else "Press + to build it"
                column.label(text=text, icon="INFO")
        notices = [result.spec.notice(result.reply) for result in jobs.results]
        draw_text(column, next((notice for notice in notices if notice), ""), characters(context), icon="INFO")


CLASSES = (PANOFORM_PT_queue, PANOFORM_PT_results)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
