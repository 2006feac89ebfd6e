"""The panel that textures meshes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import bpy

from ...shared.protocol.errors import SettingError
from ...shared.weights import WEIGHTS
from .. import preferences
from ..jobs.manager import jobs
from ..translation import tr
from ..ui.panel_parts import BackendSection, Section, characters, draw_run, draw_text, start_label
from . import mesh, operators
from .spec import TextureSpec, cost, settings_from


class PANOFORM_PT_texture(BackendSection, bpy.types.Panel):
    bl_label = "Texture"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 7
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        self.layout.menu("PANOFORM_MT_texture_presets", text="", icon="PRESET")

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform.texture
        column = self.layout.column()
        objects = mesh.selected(context.view_layer)
        if objects:
            text = "{name}" if len(objects) == 1 else "{name} and {count} more, as one"
            column.label(text=tr(text, name=objects[0].name, count=len(objects) - 1), icon="MESH_DATA")
        row = column.row(align=True)
        picture = row.row()
        picture.enabled = not settings.use_camera
        picture.template_ID(settings, "reference", open="image.open")
        row.prop(settings, "use_camera", text="", icon="CAMERA_DATA")
        model = operators.has_model()
        if model:
            pictured = settings.use_camera or settings.reference is not None
            placeholder = "Prompt (optional)" if pictured else "Prompt"
            column.prop(settings, "prompt", text="", placeholder=placeholder)
        row = column.row()
        row.prop(settings, "size")
        row.prop(settings, "front", text="")
        column.prop(settings, "only_selected_faces")
        if model:
            column.prop(settings, "seed")
        _draw_button(column, context)
        job = jobs.job if jobs.job and isinstance(jobs.job.spec, TextureSpec) else None
        draw_run(column, job, _cost(context.scene))
        if not model:
            box = column.box()
            draw_text(box, f"{tr(operators.WITHOUT_MODEL)} {tr(operators.MODEL)}", characters(context) - 4, icon="INFO")
            box.operator("wm.url_open", text="Licence", icon="URL").url = WEIGHTS["sd21"].page
            box.operator("panoform.use_multiview_hub", icon="CHECKMARK")
        if operators.material_with_views() is not None:
            column.operator("panoform.bake_texture_again", icon="FILE_REFRESH")


class PANOFORM_PT_texture_options(Section, bpy.types.Panel):
    bl_label = "Options"
    bl_parent_id = "PANOFORM_PT_texture"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return operators.has_model()  # a projection has none of these

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform.texture
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        for name in ("negative_prompt", "guidance_scale", "upscale"):
            column.prop(settings, name)
        if settings.upscale == "file":
            column.prop(settings, "upscaler")


def _draw_button(column: bpy.types.UILayout, context: bpy.types.Context) -> None:
    reason = operators.texture_disabled_reason(context.scene)
    row = column.row()
    row.scale_y = 1.4
    row.enabled = not reason
    row.operator("panoform.texture", text=start_label(), icon="TEXTURE")
    draw_text(column, reason, characters(context), icon="INFO")


def _cost(scene: bpy.types.Scene) -> Hashable:
    """Return the cost of the job with these settings; None where a value is out of range: the operator reports it."""
    engine = preferences.get().texture_engine_settings()
    try:
        return cost(engine, settings_from(lambda name: operators.shown(scene, name), engine), True)
    except SettingError:
        return None


CLASSES = (PANOFORM_PT_texture, PANOFORM_PT_texture_options)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
