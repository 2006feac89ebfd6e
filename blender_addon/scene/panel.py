"""The panel that builds scenes from maps and adjusts a dome."""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..jobs.manager import jobs
from ..ui.panel_parts import Section, draw_job
from . import environment, light_probe, lights, world
from .dome import MODIFIER_NAME, controls
from .spec import MapsSpec, SceneSpec


class PANOFORM_PT_scene(Section, bpy.types.Panel):
    bl_label = "Scene"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 6

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return jobs.has_backend or environment.find(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        column.row().prop(settings, "kind", expand=True)
        column.prop(settings, "camera_height")
        if settings.kind != "DOME":
            column.prop(settings, "detail")
            column.prop(settings, "texture_width")
            column.prop(settings, "match_panorama")
        column.prop(settings, "replace_earlier")
        if settings.kind == "OBJECTS" and "SEMANTIC" not in settings.maps:
            column.label(text="Objects need Semantic: tick it in Perceive", icon="INFO")
        if jobs.job is not None and isinstance(jobs.job.spec, SceneSpec) and jobs.job.kept is None:
            draw_job(column, jobs.job)
        column.operator("panoform.build_scene", text="Build from Folder", icon="FILE_FOLDER").choose_folder = True
        if any(isinstance(result.spec, MapsSpec) for result in jobs.results):
            column.operator("panoform.build_scene", text="Rebuild from Last Maps", icon="FILE_REFRESH")
        found = environment.find(context)
        if found is not None:
            _draw_environment(column, found)
        _draw_dome(column, context.active_object)


def _draw_environment(column: bpy.types.UILayout, found: bpy.types.Object) -> None:
    row = column.row(align=True)
    row.operator("panoform.enter_environment", icon="HIDE_OFF")
    row.operator("panoform.leave_environment", icon="LOOP_BACK")
    column.operator("panoform.remove_environment", icon="TRASH")
    row = column.row(align=True)
    row.operator("panoform.export_scene", icon="EXPORT")
    row.operator("panoform.mark_as_asset", icon="ASSET_MANAGER")
    column.operator("panoform.shadow_catcher", icon="LIGHT_SUN", depress=found.is_shadow_catcher)
    column.operator("panoform.lamps_as_lights", icon="LIGHT_AREA", depress=lights.are_separate(found))


class PANOFORM_PT_placement(Section, bpy.types.Panel):
    bl_label = "Placement"
    bl_parent_id = "PANOFORM_PT_scene"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        column.prop(settings, "level_floor")
        turned = column.column()
        turned.enabled = settings.kind != "DOME"
        turned.prop(settings, "align_walls")
        column.operator("panoform.measure_length", icon="DRIVER_DISTANCE")


class PANOFORM_PT_world(Section, bpy.types.Panel):
    bl_label = "World"
    bl_parent_id = "PANOFORM_PT_scene"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return world.is_made(context.scene.world)

    def draw(self, context: bpy.types.Context) -> None:
        shown = context.scene.world
        column = self.layout.column()
        column.label(text=shown.name, icon="WORLD")
        balls = column.row()
        for icon in light_probe.icons(context.scene):
            balls.template_icon(icon_value=icon, scale=5)
        strength = world.strength(shown)
        if strength is not None:
            column.prop(strength, "default_value", text="Strength")
        if world.rotation(shown) is not None:
            column.prop(context.scene.panoform, "rotation")
        column.operator("panoform.restore_world", icon="LOOP_BACK")


def _draw_dome(column: bpy.types.UILayout, dome: bpy.types.Object | None) -> None:
    """Draw the controls of the active object, if it is a dome."""
    modifier = dome.modifiers.get(MODIFIER_NAME) if dome is not None else None
    if modifier is None or modifier.node_group is None:
        return
    column.label(text=dome.name, icon="MESH_UVSPHERE")
    for name, (owner, path) in controls(modifier).items():
        column.prop(owner, path, text=name)


CLASSES = (PANOFORM_PT_scene, PANOFORM_PT_placement, PANOFORM_PT_world)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
