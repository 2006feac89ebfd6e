"""The operators: read properties, call one function, return.

In a window they return at once and pump.py does the rest; in the background (and in the bpy module) they block until
done and raise on failure, as bpy's own operators do.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ..shared import engines, maps
from ..shared.engines import PerceiveSettings
from ..shared.errors import PanoformError, SceneError
from . import capture, maps_folder, preferences, properties, pump
from .building import build_result, select
from .capture import Capture
from .jobs import State, find_scene, jobs
from .orders import GenerateOrder, Order, PerceiveOrder, Result
from .picture import Picture
from .render import PanoramaRender, Render
from .scene.build import build

#: Width and samples of a render that becomes a panorama: twice what the finest engine sees.
RENDER_WIDTH_PX = 2048
RENDER_SAMPLES = 64

FINISHED, CANCELLED = {"FINISHED"}, {"CANCELLED"}


def failed(operator: bpy.types.Operator, error: PanoformError) -> set[str]:
    """Report `error`; called from Python, the operator then raises RuntimeError."""
    jobs.fail(error)
    pump.watch()  # it redraws the panel
    operator.report({"ERROR"}, str(error))
    return CANCELLED


def carry_out(operator: bpy.types.Operator, order: Order) -> set[str]:
    """Begin; in the background also wait, and build."""
    jobs.begin(order)
    if not bpy.app.background:
        pump.watch()
        return FINISHED
    bring_in(operator, jobs.wait(), find_scene(order.scene_uid))
    return FINISHED


def bring_in(operator: bpy.types.Operator, result: Result, scene: bpy.types.Scene) -> None:
    """Build it. What is on disk then needs no memory."""
    operator.report({"INFO"}, build_result(result, scene))
    if isinstance(result.order, GenerateOrder):
        jobs.results.remove(result)


def given(operator: bpy.types.Operator, name: str, *settings: bpy.types.PropertyGroup):
    """The operator's own property where a script gave it, else that of the first settings that have it."""
    if operator.properties.is_property_set(name):
        return getattr(operator, name)
    return getattr(next(group for group in settings if name in group.bl_rna.properties), name)


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

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        why_not = why_not_begin()
        if why_not:
            cls.poll_message_set(why_not)
        return not why_not

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            return carry_out(self, self._order(context.scene))
        except PanoformError as error:
            return failed(self, error)

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
        source = self._source(scene)
        return PerceiveOrder(
            source=source,
            name=source.source if isinstance(source, Capture) else scene.name,
            scene_uid=scene.session_uid,
            settings=settings,
            engine=engine,
            directory=bpy.path.abspath(self.out_directory) if self.out_directory else "",
            camera_height_m=self._get(scene, "camera_height"),
        )

    def _get(self, scene: bpy.types.Scene, name: str):
        return given(self, name, scene.panoform)

    def _source(self, scene: bpy.types.Scene) -> Capture | Render:
        match self._get(scene, "source"):
            case "WORLD":
                return capture.from_world(scene)
            case "IMAGE":
                name = self.image
                image = bpy.data.images.get(name) if name else scene.panoform.image
                if image is None:
                    what = f"There is no image called {name!r}." if name else "No image is chosen."
                    raise SceneError(what, "Choose an image of this file.")
                return capture.from_image(image)
            case "FILE":
                path = self._get(scene, "filepath")
                if not path:
                    raise SceneError("No file is chosen.", "Choose a panorama on disk.")
                return capture.from_file(path)
            case "RENDER_CAMERA":
                return _render(scene, at_cursor=False)
            case _:
                return _render(scene, at_cursor=True)


def why_not_begin() -> str:
    """Why nothing can be asked of the backend now; "" where it can."""
    if jobs.job is not None:
        return "Panoform works on one panorama already"
    match jobs.state:
        case State.SETTING_UP:
            return "The backend is being set up"
        case State.NOT_SET_UP if not bpy.app.background:
            return "The backend is not set up yet"
        case State.OUT_OF_DATE if not bpy.app.background:
            return "The backend is of another version than the add-on: update it"
    return ""


def rendered(render: Render) -> Capture | Picture | Render:
    """What it makes: under way in a window, done in the background."""
    if bpy.app.background:
        return render.run()
    render.start()
    return render


def _render(
    scene: bpy.types.Scene, at_cursor: bool, width: int = RENDER_WIDTH_PX, samples: int = RENDER_SAMPLES
) -> Capture | Render:
    pose = capture.cursor_pose(scene) if at_cursor else capture.camera_pose(scene)
    return rendered(PanoramaRender(scene, pose, width=width, samples=samples))


class PANOFORM_OT_render_panorama(bpy.types.Operator):
    """Render the scene as an equirectangular image, which becomes the source"""

    bl_idname = "panoform.render_panorama"
    bl_label = "Render Panorama"

    at_cursor: BoolProperty(name="From 3D Cursor", description="From the 3D cursor, not from the camera")
    width: IntProperty(name="Width", default=RENDER_WIDTH_PX, min=2, max=engines.MAX_PANORAMA_WIDTH, subtype="PIXEL")
    samples: IntProperty(name="Samples", default=RENDER_SAMPLES, min=1)

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if jobs.job is not None:
            cls.poll_message_set("Panoform works on one panorama already")
        return jobs.job is None

    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        try:
            source = _render(scene, self.at_cursor, self.width, self.samples)
            order = Order(source=source, name=scene.name, scene_uid=scene.session_uid)
            if isinstance(source, Capture):
                self.report({"INFO"}, build_result(Result(order), scene))
                return FINISHED
            return carry_out(self, order)
        except PanoformError as error:
            return failed(self, error)


def _in_object_mode(operator: type[bpy.types.Operator], context: bpy.types.Context) -> bool:
    """One Ctrl+Z takes back what was built only where it was built in Object Mode."""
    if context.mode != "OBJECT":
        operator.poll_message_set("Only in Object Mode")
    return context.mode == "OBJECT"


class PANOFORM_OT_import_maps(bpy.types.Operator):
    """Build world, dome and material from a folder of maps"""

    bl_idname = "panoform.import_maps"
    bl_label = "Import Maps"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    directory: StringProperty(name="Folder", subtype="DIR_PATH")
    camera_height: properties.camera_height_property()
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _in_object_mode(cls, context)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        try:
            folder = maps_folder.read(self.directory)
            collection = build(
                scene,
                folder.maps,
                folder.panorama,
                Path(bpy.path.abspath(self.directory)).name,
                camera_height_m=given(self, "camera_height", scene.panoform),
            )
        except PanoformError as error:
            return failed(self, error)
        select(scene, collection)
        self.report({"INFO"}, f"Built {collection.name!r} from {', '.join(folder.maps)}.")
        return FINISHED


class PANOFORM_OT_build_result(bpy.types.Operator):
    """Bring this result into this scene"""

    bl_idname = "panoform.build_result"
    bl_label = "Build Result"
    bl_options: ClassVar = {"UNDO", "INTERNAL"}

    index: IntProperty(min=0)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _in_object_mode(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        result = jobs.results[self.index]
        scene = find_scene(result.order.scene_uid) if result.pending else None
        try:
            bring_in(self, result, scene or context.scene)
        except PanoformError as error:
            return failed(self, error)
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

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        runs = jobs.job is not None or jobs.setup is not None
        if not runs:
            cls.poll_message_set("Nothing is under way")
        return runs

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
