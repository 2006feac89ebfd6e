"""The operators that perceive, render and build: read properties, call one function, return."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...shared import engines, maps
from ...shared.engines import PerceiveSettings
from ...shared.protocol.errors import SceneError
from .. import preferences
from ..capture import sources
from ..capture.render import PanoramaRender, Render
from ..capture.sources import Capture
from ..jobs.manager import find_scene, jobs
from ..jobs.specs import Order, PerceiveOrder, Result
from ..scene import maps_folder
from ..scene.build import build
from ..scene.results import build_result, select
from ..ui.operator_parts import (
    FINISHED,
    RENDER_SAMPLES,
    bring_in,
    carry_out,
    given,
    greyed_by,
    rendered,
    reporting,
    why_not_begin,
    why_not_build,
)
from . import properties

#: Width of a render that becomes a panorama: twice what the finest engine sees.
RENDER_WIDTH_PX = 2048


class PANOFORM_OT_perceive(bpy.types.Operator):
    """Perceive maps from the panorama, and build world, dome and material from them"""

    bl_idname = "panoform.perceive"
    bl_label = "Perceive"

    source: properties.source_property()
    image: StringProperty(name="Image", description="Name of an image of this file")
    filepath: properties.filepath_property()
    maps: properties.maps_property()
    quality: properties.quality_property()
    seed: properties.seed_property()
    engine: properties.engine_property()
    camera_height: properties.camera_height_property()
    out_directory: StringProperty(name="Folder", description="Write the maps there too", subtype="DIR_PATH")
    repair: properties.repair_property()

    poll = greyed_by(why_not_begin)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return carry_out(self, self._order(context.scene))

    def _order(self, scene: bpy.types.Scene) -> Order:
        engine = preferences.get().engine_settings(self._get(scene, "engine"))
        quality = engines.QUALITIES[engine.engine][self._get(scene, "quality")]
        settings = PerceiveSettings(
            maps=maps.check_names(name.lower() for name in self._get(scene, "maps")),
            num_inference_steps=quality.num_inference_steps,
            height=quality.height,
            seed=self._get(scene, "seed"),
            repair=self._get(scene, "repair"),
        )
        engines.check_engine(engine)
        engines.check_perceive(settings)
        directory = bpy.path.abspath(self.out_directory) if self.out_directory else ""
        if directory:
            maps_folder.check_unharmed(Path(directory), settings.maps)  # before a render begins
        source = self._source(scene)
        if directory and isinstance(source, Capture):
            maps_folder.check_unharmed(Path(directory), settings.maps, source.file)
        return PerceiveOrder(
            source=source,
            name=source.source if isinstance(source, Capture) else scene.name,
            scene_uid=scene.session_uid,
            settings=settings,
            engine=engine,
            directory=directory,
            camera_height_m=self._get(scene, "camera_height"),
        )

    def _get(self, scene: bpy.types.Scene, name: str):
        return given(self, name, scene.panoform)

    def _source(self, scene: bpy.types.Scene) -> Capture | Render:
        match self._get(scene, "source"):
            case "WORLD":
                return sources.from_world(scene)
            case "IMAGE":
                name = self.image
                image = bpy.data.images.get(name) if name else scene.panoform.image
                if image is None:
                    what = f"There is no image called {name!r}." if name else "No image is chosen."
                    raise SceneError(what, "Choose an image of this file.")
                return sources.from_image(image)
            case "FILE":
                path = self._get(scene, "filepath")
                if not path:
                    raise SceneError("No file is chosen.", "Choose a panorama on disk.")
                return sources.from_file(path)
            case "RENDER_CAMERA":
                return _render(scene, at_cursor=False)
            case _:
                return _render(scene, at_cursor=True)


def _render(
    scene: bpy.types.Scene, at_cursor: bool, width: int = RENDER_WIDTH_PX, samples: int = RENDER_SAMPLES
) -> Capture | Render:
    pose = sources.cursor_pose(scene) if at_cursor else sources.camera_pose(scene)
    return rendered(PanoramaRender(scene, pose, width=width, samples=samples))


class PANOFORM_OT_render_panorama(bpy.types.Operator):
    """Render the scene as an equirectangular image, which becomes the source"""

    bl_idname = "panoform.render_panorama"
    bl_label = "Render Panorama"

    at_cursor: BoolProperty(name="From 3D Cursor", description="From the 3D cursor, not from the camera")
    width: IntProperty(name="Width", default=RENDER_WIDTH_PX, min=2, max=engines.MAX_PANORAMA_WIDTH, subtype="PIXEL")
    samples: IntProperty(name="Samples", default=RENDER_SAMPLES, min=1)

    poll = greyed_by(lambda: "" if jobs.job is None else "Panoform works on one panorama already")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        source = _render(scene, self.at_cursor, self.width, self.samples)
        order = Order(source=source, name=scene.name, scene_uid=scene.session_uid)
        if isinstance(source, Capture):
            self.report({"INFO"}, build_result(Result(order), scene))
            return FINISHED
        return carry_out(self, order)


class PANOFORM_OT_import_maps(bpy.types.Operator):
    """Build world, dome and material from a folder of maps"""

    bl_idname = "panoform.import_maps"
    bl_label = "Import Maps"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    directory: StringProperty(name="Folder", subtype="DIR_PATH")
    camera_height: properties.camera_height_property()
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    poll = greyed_by(why_not_build)

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
            camera_height_m=given(self, "camera_height", scene.panoform),
        )
        select(scene, collection)
        self.report({"INFO"}, f"Built {collection.name!r} from {', '.join(folder.maps)}.")
        return FINISHED


class PANOFORM_OT_build_result(bpy.types.Operator):
    """Build this result in the scene that it was asked for; once it is there, or that is gone, in this scene"""

    bl_idname = "panoform.build_result"
    bl_label = "Build Result"
    bl_options: ClassVar = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    poll = greyed_by(why_not_build)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        result = jobs.results[self.index]
        scene = None if result.built else find_scene(result.order.scene_uid)
        bring_in(self, result, scene or context.scene)
        return FINISHED


class PANOFORM_OT_forget_result(bpy.types.Operator):
    """Free the memory of this result. What was built stays"""

    bl_idname = "panoform.forget_result"
    bl_label = "Forget Result"
    bl_options: ClassVar = {"INTERNAL"}

    index: IntProperty(min=0)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        del jobs.results[self.index]
        return FINISHED


class PANOFORM_OT_cancel(bpy.types.Operator):
    """Stop what Panoform is doing"""

    bl_idname = "panoform.cancel"
    bl_label = "Cancel"

    poll = greyed_by(lambda: "" if jobs.job or jobs.setup else "Nothing is under way")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.cancel()
        return FINISHED


CLASSES = (
    PANOFORM_OT_perceive,
    PANOFORM_OT_render_panorama,
    PANOFORM_OT_import_maps,
    PANOFORM_OT_build_result,
    PANOFORM_OT_forget_result,
    PANOFORM_OT_cancel,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
