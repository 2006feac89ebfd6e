"""The operator that builds a scene from a folder of maps."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, StringProperty

from ..ui.operator_parts import FINISHED, build_disabled_reason, poll_unless, property_or_setting, reporting
from . import maps_folder
from .build import build, select
from .properties import camera_height_property


class PANOFORM_OT_import_maps(bpy.types.Operator):
    """Build world, dome and material from a folder of maps"""

    bl_idname = "panoform.import_maps"
    bl_label = "Import Maps"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    directory: StringProperty(name="Folder", subtype="DIR_PATH")
    camera_height: camera_height_property()
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    poll = poll_unless(build_disabled_reason)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        folder = maps_folder.read(self.directory)
        collection = build(
            scene,
            folder.maps,
            folder.panorama,
            Path(bpy.path.abspath(self.directory)).name,
            camera_height_m=property_or_setting(self, "camera_height", scene.panoform),
        )
        select(scene, collection)
        self.report({"INFO"}, f"Built {collection.name!r} from {', '.join(folder.maps)}.")
        return FINISHED


CLASSES = (PANOFORM_OT_import_maps,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
