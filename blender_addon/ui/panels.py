"""The sidebar tab "Panoform" of the 3D View. Draws only: what it shows is in `jobs` and in `scene.panoform`."""

from __future__ import annotations

import bpy

from ...shared.engines import QUALITIES
from ...shared.jobs.generate import GenerateReply
from ...shared.jobs.perceive import PerceiveReply
from ...shared.maps import MAPS
from ...shared.protocol.errors import PanoformError, SceneError
from .. import preferences
from ..capture import sources
from ..jobs.manager import State, jobs
from ..jobs.specs import GenerateOrder, Result
from ..scene.dome import MODIFIER_NAME, controls
from .panel_parts import Section, characters, draw_job, draw_took, draw_words

#: Errors that one press mends: code → operator, label.
FIXES = {
    "backend_missing": ("panoform.setup_backend", "Set up the Backend"),
    "backend_version": ("panoform.setup_backend", "Update the Backend"),
    "device_memory": ("panoform.use_offload", "Use Model Offload"),
}


class PANOFORM_PT_main(Section, bpy.types.Panel):
    bl_label = "Panoform"

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        _draw_state(column, characters(context))
        if jobs.failure is not None:
            _draw_failure(column.box(), jobs.failure.error, characters(context))


class PANOFORM_PT_source(Section, bpy.types.Panel):
    bl_label = "Source"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 0

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        column.prop(settings, "source", text="")
        match settings.source:
            case "WORLD":
                _draw_world(column, context.scene, characters(context))
            case "IMAGE":
                column.template_ID(settings, "image", open="image.open")
                if settings.image is not None:
                    column.label(text=_size(settings.image))
            case "FILE":
                column.prop(settings, "filepath", text="")
            case "RENDER_CAMERA" if context.scene.camera is None:
                column.label(text="The scene has no camera", icon="INFO")
            case _:
                button = column.operator("panoform.render_panorama", text="Only Render It")
                button.at_cursor = settings.source == "RENDER_CURSOR"
        column.prop(settings, "repair")


class PANOFORM_PT_perceive(Section, bpy.types.Panel):
    bl_label = "Perceive"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 1

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        column.row().prop(settings, "quality", expand=True)
        grid = column.grid_flow(columns=2, even_columns=True, row_major=True, align=True)
        for kind in MAPS.values():
            grid.prop_enum(settings, "maps", kind.name.upper())
        row = column.row()
        row.prop(settings, "seed")
        row.prop(settings, "engine", text="")
        if jobs.job is None or isinstance(jobs.job.order, GenerateOrder):
            row = column.row()
            row.scale_y = 1.4
            row.operator("panoform.perceive", icon="SHADERFX")
            draw_took(column, _cost(settings))
        else:
            draw_job(column, jobs.job)


class PANOFORM_PT_scene(Section, bpy.types.Panel):
    bl_label = "Scene"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 5

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        column.prop(context.scene.panoform, "camera_height")
        dome = context.active_object
        modifier = dome.modifiers.get(MODIFIER_NAME) if dome is not None else None
        if modifier is None or modifier.node_group is None:
            column.label(text="Select a dome to adjust it", icon="INFO")
        else:
            column.label(text=dome.name, icon="MESH_UVSPHERE")
            for name, (owner, path) in controls(modifier).items():
                column.prop(owner, path, text=name)
        column.operator("panoform.import_maps", icon="FILE_FOLDER")


class PANOFORM_PT_results(Section, bpy.types.Panel):
    bl_label = "Results"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 6

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return bool(jobs.results)

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        for index, result in enumerate(jobs.results):
            row = column.row()
            icon = "CHECKMARK" if result.built else "TIME"
            row.label(text=f"{result.order.name} · {_made(result)}", icon=icon)
            row.operator("panoform.build_result", text="", icon="ADD").index = index
            row.operator("panoform.forget_result", text="", icon="X").index = index
            if result.waits_for:
                column.label(text=f"Ready: it waits for {result.waits_for}", icon="INFO")
            elif not result.built:
                column.label(text="Its scene is gone: press + to build it here", icon="INFO")
        infos = [result.reply.info for result in jobs.results if isinstance(result.reply, PerceiveReply)]
        notice = next((info.notice for info in infos if info.notice), "")
        draw_words(column, notice, characters(context), icon="INFO")


def _draw_state(layout: bpy.types.UILayout, width: int) -> None:
    row = layout.row()
    match jobs.state:
        case State.SETTING_UP:
            row.progress(factor=jobs.setup.fraction or 0.0, text=jobs.setup.status)
            row.operator("panoform.cancel", text="", icon="X")
        case State.NOT_SET_UP:
            row.label(text="Not set up", icon="RADIOBUT_OFF")
            _draw_setup(layout, "Set up the Backend", width)
        case State.OUT_OF_DATE:
            row.label(text="Set up for another version", icon="RADIOBUT_OFF")
            _draw_setup(layout, "Update the Backend", width)
        case State.STOPPED:
            row.label(text="Starts when it is needed", icon="RADIOBUT_OFF")
        case State.STARTING:
            row.label(text="Starting", icon="SORTTIME")
        case State.READY:
            status = jobs.session.status
            # "FLUX + OmniX", without what explains it in the menu of engines
            row.label(
                text=" · ".join(["Ready", *(status.engine or "").split(" (")[:1]]).strip(" ·"), icon="RADIOBUT_ON"
            )
            row.operator("panoform.stop_backend", text="", icon="QUIT")
            if status.memory_total:
                free, total = status.memory_free / 2**30, status.memory_total / 2**30
                layout.label(text=f"{status.device}: {free:.1f} of {total:.0f} GB free", icon="BLANK1")


def _draw_setup(layout: bpy.types.UILayout, label: str, width: int) -> None:
    row = layout.row()
    row.scale_y = 1.4
    row.operator("panoform.setup_backend", text=label, icon="IMPORT")
    if not bpy.app.online_access:
        draw_words(layout, "It downloads packages: allow online access first.", width, icon="INFO")
        layout.operator("screen.userpref_show", text="Open Preferences", icon="PREFERENCES").section = "SYSTEM"


def _draw_failure(layout: bpy.types.UILayout, error: PanoformError, width: int) -> None:
    draw_words(layout, error.message, width - 4, icon="ERROR")
    draw_words(layout, error.hint, width - 4, icon="BLANK1")
    # On a CPU there is nothing to offload from, and the error doesn't advise it.
    if error.code in FIXES and (error.code != "device_memory" or "offload" in error.hint):
        operator, label = FIXES[error.code]
        layout.operator(operator, text=label)
    row = layout.row()
    row.operator("panoform.copy_error", icon="COPYDOWN")
    row.operator("panoform.dismiss_error", text="", icon="X")


def _draw_world(layout: bpy.types.UILayout, scene: bpy.types.Scene, width: int) -> None:
    try:
        image, _rotation = sources.world_image(scene)
    except SceneError as error:
        draw_words(layout, error.message, width, icon="INFO")
    else:
        layout.label(text=f"{image.name} · {_size(image)}", icon="WORLD")
        layout.operator("panoform.split_sun", icon="LIGHT_SUN")


def _size(image: bpy.types.Image) -> str:
    width, height = image.size
    return f"{width} × {height}" if width else "can't be read"


def _cost(settings: bpy.types.PropertyGroup) -> tuple:
    """That of the order that these settings would make."""
    engine = preferences.get().engine_settings(settings.engine)
    quality = QUALITIES[engine.engine][settings.quality]
    names = tuple(name for name in MAPS if name.upper() in settings.maps)
    return (engine, quality.num_inference_steps, quality.height, names)


def _made(result: Result) -> str:
    match result.reply:
        case PerceiveReply():
            count, what = len(result.reply.maps), "map"
        case GenerateReply():
            count, what = len(result.reply.panoramas), "panorama"
        case None:
            count, what = 1, "panorama"
    return f"{count} {what}{'s' if count > 1 else ''}"


CLASSES = (PANOFORM_PT_main, PANOFORM_PT_source, PANOFORM_PT_perceive, PANOFORM_PT_scene, PANOFORM_PT_results)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
