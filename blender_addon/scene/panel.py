"""The panel that adjusts a built scene."""

from __future__ import annotations

import bpy

from ..ui.panel_parts import Section
from .dome import MODIFIER_NAME, controls


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


CLASSES = (PANOFORM_PT_scene,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
