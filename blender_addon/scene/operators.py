"""The operators that build scenes from maps, and step inside them and out."""

from __future__ import annotations

from typing import ClassVar

import bpy
import msgspec
from bpy.props import BoolProperty, StringProperty

from ...shared.jobs.scene import SceneSettings
from ...shared.protocol.errors import InputError
from ..jobs.manager import jobs
from ..translation import tr_report
from ..ui.operator_parts import (
    FINISHED,
    build_disabled_reason,
    poll_unless,
    property_or_setting,
    reporting,
    run_job,
)
from ..ui.path_properties import BLEND_RELATIVE
from . import environment, remove, world
from .datablocks import all_or_nothing
from .properties import (
    align_walls_property,
    camera_height_property,
    detail_property,
    kind_property,
    level_floor_property,
    match_panorama_property,
    scale_property,
    settings_from,
    texture_width_property,
)
from .spec import MapsSpec, SceneSpec, dome_from_folder, from_folder


class PANOFORM_OT_build_scene(bpy.types.Operator):
    """Build a mesh, objects or a dome from a folder of maps, or from the maps perceived last"""

    bl_idname = "panoform.build_scene"
    bl_label = "Build Scene from Maps"
    bl_options: ClassVar = {"UNDO"}

    directory: StringProperty(
        name="Folder",
        description="The folder of the maps. Empty: the maps perceived last",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"} | BLEND_RELATIVE,
    )
    kind: kind_property()
    camera_height: camera_height_property()
    detail: detail_property()
    texture_width: texture_width_property()
    level_floor: level_floor_property()
    align_walls: align_walls_property()
    match_panorama: match_panorama_property()
    scale: scale_property()
    choose_folder: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    poll = poll_unless(build_disabled_reason)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self.choose_folder:
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        settings = settings_from(lambda name: property_or_setting(self, name, scene.panoform))
        if self.scale:
            settings = msgspec.structs.replace(settings, scale=self.scale)
        spec = self._spec(scene, settings)
        if not self.scale and not self.properties.is_property_set("camera_height"):
            spec.keep_measured_scale(scene)
        if property_or_setting(self, "kind", scene.panoform) != "DOME":
            return run_job(self, spec)
        self.report({"INFO"}, spec.build_dome(scene))
        return FINISHED

    def _spec(self, scene: bpy.types.Scene, settings: SceneSettings) -> SceneSpec:
        if self.directory:
            return from_folder(self.directory, scene.session_uid, settings)
        for result in jobs.results:
            if isinstance(result.spec, MapsSpec):
                return result.spec.scene_spec(result.reply, scene.session_uid, settings)
        raise InputError("No maps were perceived yet.", "Perceive a panorama, or choose a folder of maps.")


class PANOFORM_OT_import_maps(bpy.types.Operator):
    """Build world, dome and material from a folder of maps"""

    bl_idname = "panoform.import_maps"
    bl_label = "Import Maps"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    directory: StringProperty(name="Folder", subtype="DIR_PATH", options=BLEND_RELATIVE)
    camera_height: camera_height_property()
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    poll = poll_unless(build_disabled_reason)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        height = property_or_setting(self, "camera_height", scene.panoform)
        self.report({"INFO"}, dome_from_folder(scene, self.directory, SceneSettings(camera_height_m=height)))
        return FINISHED


class PANOFORM_OT_enter_environment(bpy.types.Operator):
    """Move the view to the centre of the panorama, looking forward, with its materials and world"""

    bl_idname = "panoform.enter_environment"
    bl_label = "Step Inside"

    poll = poll_unless(environment.disabled_reason)

    def execute(self, context: bpy.types.Context) -> set[str]:
        environment.enter(context.scene, environment.find(context))
        return FINISHED


class PANOFORM_OT_leave_environment(bpy.types.Operator):
    """Return to the view and shading from before stepping inside"""

    bl_idname = "panoform.leave_environment"
    bl_label = "Back to My View"

    poll = poll_unless(lambda: "" if environment.is_inside() else "The view is not inside an environment")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        environment.leave()
        return FINISHED


class PANOFORM_OT_remove_environment(bpy.types.Operator):
    """Remove the environment, the active one or the newest, with its camera, materials, images and world. What you have
    added stays"""

    bl_idname = "panoform.remove_environment"
    bl_label = "Remove Environment"
    bl_options: ClassVar = {"UNDO"}

    poll = poll_unless(lambda: build_disabled_reason() or environment.disabled_reason())

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        body = environment.find(context)
        with all_or_nothing(context.scene):
            if environment.all_in(context.scene) == [body] and environment.is_inside():
                environment.leave()
            name = remove.remove(body)
        self.report({"INFO"}, tr_report("Removed {name!r}.", name=name))
        return FINISHED


class PANOFORM_OT_restore_world(bpy.types.Operator):
    """Return to the world from before Panoform. Panoform's world stays in the file"""

    bl_idname = "panoform.restore_world"
    bl_label = "Back to My World"
    bl_options: ClassVar = {"UNDO"}

    poll = poll_unless(lambda: "" if world.is_made(bpy.context.scene.world) else "The world is not Panoform's")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        with all_or_nothing(context.scene):
            world.restore(context.scene)
        return FINISHED


CLASSES = (
    PANOFORM_OT_build_scene,
    PANOFORM_OT_import_maps,
    PANOFORM_OT_enter_environment,
    PANOFORM_OT_leave_environment,
    PANOFORM_OT_remove_environment,
    PANOFORM_OT_restore_world,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
