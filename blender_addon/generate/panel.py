"""The panels for generating, browsing and editing panoramas."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import bpy

from ...shared.protocol.errors import InputError
from ...shared.weights import WEIGHTS, gigabytes
from .. import preferences
from ..capture import picture
from ..jobs.manager import jobs
from ..translation import tr
from ..ui import previews
from ..ui.operator_parts import setting
from ..ui.panel_parts import BackendSection, Section, characters, draw_run, draw_text, start_label
from . import gallery, gallery_operators, operators
from .spec import EditSpec, GenerateSpec, cost, settings_from

#: Number of panoramas that are listed; all others are in a grid.
_LISTED = 4
_ENTRY_BUTTONS = (
    ("panoform.use_panorama", "WORLD"),
    ("panoform.perceive_panorama", "SHADERFX"),
    ("panoform.show_panorama_folder", "FILEBROWSER"),
    ("panoform.generate_again", "FILE_REFRESH"),
    ("panoform.delete_panorama", "TRASH"),
)


class PANOFORM_PT_generate(BackendSection, bpy.types.Panel):
    bl_label = "Generate"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 3
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        self.layout.menu("PANOFORM_MT_generate_presets", text="", icon="PRESET")

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform.generate
        column = self.layout.column()
        column.row().prop(settings, "of", expand=True)
        match settings.of:
            case "PICTURE":
                column.template_ID(settings, "image", open="image.open")
                angles = column.column(align=True)
                for name in ("fov", "yaw", "pitch", "roll"):
                    angles.prop(settings, name)
            case "CAMERA":
                _draw_camera(column, context.scene)
        placeholder = "Prompt" if settings.of == "WORDS" else "Prompt for the surroundings (optional)"
        row = column.row(align=True)
        row.prop(settings, "prompt", text="", placeholder=placeholder)
        if gallery_operators.prompts(context.scene):
            row.menu("PANOFORM_MT_prompts", text="", icon="TIME")
        column.prop(settings, "size", text="")
        _draw_seed(column, settings)
        supported = settings.of != "WORDS" or operators.engine_can(context.scene, "text_to_panorama")
        needs_flux = "" if supported else "Prompts"
        disabled_reason = operators.generate_disabled_reason(context.scene)
        _draw_button(column, context, "panoform.generate", "WORLD", needs_flux, disabled_reason)
        draw_run(column, jobs.job if jobs.job and type(jobs.job.spec) is GenerateSpec else None, _cost(context.scene))


class PANOFORM_PT_generate_options(Section, bpy.types.Panel):
    bl_label = "Options"
    bl_parent_id = "PANOFORM_PT_generate"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform.generate
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        for name in ("method", "lora", "trigger"):
            column.prop(settings, name)
        column = layout.column()
        column.prop(settings, "negative_prompt")
        for name in ("true_cfg_scale", "guidance_scale", "shift"):
            column.prop(settings, name)
        column = layout.column()
        column.prop(settings, "hdr")
        lights = column.column()
        lights.active = settings.hdr
        lights.prop(settings, "measure_light")
        lights.prop(settings, "sun_strength")
        lights.prop(settings, "sun_threshold")
        layout.prop(settings, "folder")


class PANOFORM_PT_panoramas(Section, bpy.types.Panel):
    bl_label = "Panoramas"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 4

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(gallery.entries(context.scene))

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        entries = gallery.entries(context.scene)
        active = gallery.active(context.scene)
        for entry in entries[:_LISTED]:
            _draw_entry(column.box(), entry, is_active=entry == active)
        if len(entries) > _LISTED:
            column.label(text=tr("All {count}", count=len(entries)))
            settings = context.scene.panoform.generate
            column.template_icon_view(settings, "gallery", show_labels=True, scale=4, scale_popup=5)
            if active in entries[_LISTED:]:
                _draw_entry(column.box(), active, is_active=True)
        if active is not None:
            column.operator("panoform.split_sun", icon="LIGHT_SUN")


class PANOFORM_PT_edit(BackendSection, bpy.types.Panel):
    bl_label = "Edit"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 5
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform.edit
        column = self.layout.column()
        column.row().prop(settings, "mode", expand=True)
        if settings.mode != "VARY":
            column.template_ID(settings, "mask", open="image.open")
            column.operator("panoform.paint_mask", icon="BRUSH_DATA")
        column.prop(settings, "prompt", text="", placeholder="Prompt")
        if settings.mode == "VARY":
            column.prop(settings, "strength", slider=True)
        _draw_seed(column, context.scene.panoform.generate)
        needs_flux = "" if operators.engine_can(context.scene, "edit") else "Edits"
        disabled_reason = operators.edit_disabled_reason(context.scene)
        _draw_button(column, context, "panoform.edit", "WORLD", needs_flux, disabled_reason)
        draw_run(column, jobs.job if jobs.job and isinstance(jobs.job.spec, EditSpec) else None, None)


def _draw_entry(layout: bpy.types.UILayout, entry: gallery.Entry, *, is_active: bool) -> None:
    """Draw a panorama of the gallery and its buttons."""
    row = layout.row()
    row.template_icon(icon_value=previews.thumbnail(entry.path), scale=3)
    column = row.column(align=True)
    column.label(text=entry.path.stem, icon="WORLD" if is_active else "NONE")
    height, width = entry.recipe.size
    seed = tr("seed {seed}", seed=entry.recipe.settings.seeds[0])
    column.label(text=f"{width} × {height} · {seed}")
    buttons = column.row(align=True)
    for operator, icon in _ENTRY_BUTTONS:
        buttons.operator(operator, text="", icon=icon).name = entry.path.name


def _draw_camera(layout: bpy.types.UILayout, scene: bpy.types.Scene) -> None:
    """Draw the camera's name and field of view, or nothing: the button says why the camera can't be used."""
    try:
        view = picture.camera_view(scene)
    except InputError:
        return
    layout.label(text=f"{scene.camera.name} · {tr('{degrees:.0f}° wide', degrees=view.fov)}", icon="CAMERA_DATA")


def _draw_seed(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    row = layout.row(align=True)
    seed = row.row(align=True)
    seed.active = not settings.new_seed
    seed.prop(settings, "seed")
    row.prop(settings, "new_seed", text="", icon="FILE_REFRESH")
    layout.prop(settings, "count")


def _draw_button(
    layout: bpy.types.UILayout,
    context: bpy.types.Context,
    operator: str,
    icon: str,
    needs_flux: str,
    disabled_reason: str,
) -> None:
    """Draw the operator's button; if it is disabled, the reason below it.

    `needs_flux`: what needs FLUX while another engine is selected; `disabled_reason`: any other reason.
    """
    row = layout.row()
    row.scale_y = 1.4
    row.enabled = not (needs_flux or disabled_reason)
    row.operator(operator, text=start_label(), icon=icon)
    if needs_flux:
        _draw_get_flux(layout.box(), context, needs_flux)
    else:
        draw_text(layout, disabled_reason, characters(context), icon="INFO")


def _draw_get_flux(layout: bpy.types.UILayout, context: bpy.types.Context, what: str) -> None:
    flux = WEIGHTS["flux"]
    text = (
        "{what} need FLUX.1-dev: {size} on disk, and a GPU of 8 GB or more. Its licence must be accepted once on "
        "huggingface.co: {licence}."
    )
    text = tr(text, what=tr(what), size=gigabytes(flux.bytes), licence=flux.licence)
    draw_text(layout, text, characters(context) - 4, icon="INFO")
    column = layout.column(align=True)
    column.operator("panoform.show_models", icon="PREFERENCES")
    column.operator("wm.url_open", text="Accept Licence", icon="URL").url = flux.page
    column.operator("panoform.save_hub_token", icon="LOCKED")
    column.prop_enum(context.scene.panoform, "engine", "FLUX", text="Use FLUX", icon="CHECKMARK")


def _cost(scene: bpy.types.Scene) -> Hashable:
    """Return the cost of the job with the scene's settings."""
    settings = scene.panoform.generate
    engine = preferences.get().engine_settings(scene.panoform.engine)
    sampling = settings_from(
        lambda name: setting(name, settings, scene.panoform), engine=engine, prompt=settings.prompt,
        height=int(settings.size), seed=0,
    )  # fmt: skip
    return cost(engine, sampling, settings.of == "WORDS")


CLASSES = (
    PANOFORM_PT_generate,
    PANOFORM_PT_generate_options,
    PANOFORM_PT_panoramas,
    PANOFORM_PT_edit,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
