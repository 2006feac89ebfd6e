"""The panel that lists results."""

from __future__ import annotations

import bpy

from ..ui import previews
from ..ui.panel_parts import Section, characters, draw_text
from .manager import find_scene, jobs


class PANOFORM_PT_results(Section, bpy.types.Panel):
    bl_label = "Results"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 7

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
                column.label(text=f"Ready: waiting for {result.waits_for}", icon="INFO")
            elif not result.built and not result.pending:
                gone = find_scene(result.spec.scene_uid) is None
                text = "Its scene no longer exists: press + to build it here" if gone else "Press + to build it"
                column.label(text=text, icon="INFO")
        notices = [result.spec.notice(result.reply) for result in jobs.results]
        draw_text(column, next((notice for notice in notices if notice), ""), characters(context), icon="INFO")


CLASSES = (PANOFORM_PT_results,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
