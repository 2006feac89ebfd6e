"""A scene → panorama or picture, rendered by Cycles in a copy of it: the scene's own settings stay untouched."""

from __future__ import annotations

import abc
import math
import tempfile
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import bpy
from bpy.app.handlers import persistent
from mathutils import Euler, Matrix

from ...shared.engines import MAX_PANORAMA_WIDTH
from ...shared.protocol.errors import BusyError, Cancelled, PanoramaError, SceneError
from . import picture, pixels
from .picture import Picture
from .sources import Capture, from_file

#: Longest side of a camera's view in pixels: in a panorama 4096 wide, a view of 90° is as fine.
VIEW_SIDE_PX = 1024

#: Custom property of the copied scenes and their cameras.
_IS_COPY = "panoform_render"

Made = TypeVar("Made", Capture, Picture)


def _can_denoise() -> bool:
    """Some builds of Blender (Debian's 4.3) lack OpenImageDenoise, and fail where a scene asks for it."""
    import _cycles

    return _cycles.with_openimagedenoise


class Render(abc.ABC, Generic[Made]):
    """A render of a scene by one camera.

    `run()` blocks. In a window: `start()`, then `poll()` from a timer until it returns what was made. One or the other,
    once. Both end by removing the copy.
    """

    #: `session_uid` of the copies and cameras that are in use.
    _in_use: ClassVar[set[int]] = set()

    def __init__(
        self, scene: bpy.types.Scene, eye: bpy.types.Camera, pose: Matrix, size: tuple[int, int], samples: int
    ) -> None:
        """Takes over `eye`, which is removed at the end. `size`: width and height in pixels."""
        self._source = scene.name
        self._folder = tempfile.TemporaryDirectory(prefix="panoform-", ignore_cleanup_errors=True)
        self._file = Path(self._folder.name) / "render.exr"
        self._started = False
        self._uids = self._prepare(scene, eye, pose, size, samples)
        self._in_use.update(self._uids)

    def _prepare(
        self, scene: bpy.types.Scene, eye: bpy.types.Camera, pose: Matrix, size: tuple[int, int], samples: int
    ) -> tuple[int, int]:
        copy = scene.copy()
        copy.name = "Panoform Render"
        eye.name = "Panoform Render"
        camera = bpy.data.objects.new("Panoform Render", eye)
        camera.matrix_world = pose
        copy[_IS_COPY] = camera[_IS_COPY] = True
        copy.collection.objects.link(camera)
        copy.camera = camera

        copy.cycles.samples = samples
        copy.cycles.use_denoising &= _can_denoise()
        render = copy.render
        render.engine = "CYCLES"
        render.film_transparent = False
        render.use_compositing = render.use_sequencer = False
        render.use_border = render.use_multiview = render.use_stamp = False
        render.resolution_x, render.resolution_y = size
        render.resolution_percentage = 100
        render.pixel_aspect_x = render.pixel_aspect_y = 1
        render.filepath = str(self._file)
        render.use_file_extension = False
        settings = render.image_settings
        if bpy.app.version >= (5, 0):
            settings.media_type = "IMAGE"
        settings.file_format = "OPEN_EXR"
        settings.color_mode, settings.color_depth, settings.exr_codec = "RGB", "32", "ZIP"
        settings.color_management = "FOLLOW_SCENE"
        layers = copy.view_layers
        chosen = next((layer for layer in layers if layer.use), layers[0])
        for layer in layers:
            layer.use = layer == chosen
        return copy.session_uid, camera.session_uid

    @abc.abstractmethod
    def _read(self, light: pixels.Pixels) -> Made:
        """What the render, in linear light, is to be."""

    def _scene(self) -> bpy.types.Scene | None:
        return next((scene for scene in bpy.data.scenes if scene.session_uid == self._uids[0]), None)

    def run(self) -> Made:
        """Render now. Raises SceneError where Blender can't."""
        try:
            bpy.ops.render.render(scene=self._scene().name, write_still=True)
            return self._read(from_file(self._file).panorama)
        except RuntimeError as error:
            raise SceneError(f"Blender can't render the scene: {error}", "See Blender's console.") from error
        finally:
            self.close()

    def start(self) -> None:
        """Render in the background of a window. Raises BusyError where Blender renders already."""
        if bpy.app.is_job_running("RENDER"):
            self.close()
            raise BusyError("Blender is rendering.", "Wait for it to end, or cancel it with Esc.")
        view = bpy.context.preferences.view
        display, view.render_display_type = view.render_display_type, "NONE"
        try:
            bpy.ops.render.render("INVOKE_DEFAULT", scene=self._scene().name, write_still=True)
            self._started = True
        finally:
            view.render_display_type = display

    def poll(self) -> Made | None:
        """What was made once it is there, None before. Raises Cancelled where the user stopped it."""
        if bpy.app.is_job_running("RENDER"):
            return None
        try:
            if not self._file.exists():
                raise Cancelled("The render was stopped.")
            return self._read(from_file(self._file).panorama)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the render, and remove the copied scene, its camera and the file."""
        if self._started and bpy.app.is_job_running("RENDER"):
            self._stop()
        if self._end() is not None:
            bpy.app.timers.register(self._end, persistent=True)

    def _stop(self) -> None:
        """End the render by deleting its scene: Python has no other way to stop one. Blender waits for its end."""
        scene = self._scene()
        if scene is not None and len(bpy.data.scenes) > 1:
            with bpy.context.temp_override(scene=scene):
                bpy.ops.scene.delete()

    def _end(self) -> float | None:
        """Clean up, or say in how many seconds to try again (for `bpy.app.timers`): while Blender renders."""
        if bpy.app.is_job_running("RENDER") and self._started:
            return 0.5
        self._folder.cleanup()
        for camera in [camera for camera in bpy.data.objects if camera.session_uid == self._uids[1]]:
            bpy.data.cameras.remove(camera.data)
        scene = self._scene()
        if scene is not None:
            _remove(scene)
        self._in_use.difference_update(self._uids)
        return None


class PanoramaRender(Render[Capture]):
    """The scene all around, equirectangular, in linear light."""

    def __init__(self, scene: bpy.types.Scene, pose: Matrix, *, width: int, samples: int) -> None:
        """`pose`: `capture.camera_pose` or `cursor_pose`. `width` in pixels, twice the height."""
        if not (2 <= width <= MAX_PANORAMA_WIDTH):
            raise PanoramaError(f"A panorama {width} px wide can't be rendered.", f"Use 2 to {MAX_PANORAMA_WIDTH} px.")
        _need_cycles()
        self._pose = pose.copy()
        eye = bpy.data.cameras.new("Panoform Render")
        eye.type = "PANO"
        eye.panorama_type = "EQUIRECTANGULAR"
        eye.clip_start, eye.clip_end = 1e-3, 1e9
        ahead = self._pose @ Euler((math.pi / 2, 0, -math.pi / 2)).to_matrix().to_4x4()
        super().__init__(scene, eye, ahead, (width, width // 2), samples)

    def _read(self, light: pixels.Pixels) -> Capture:
        return Capture(light, self._source, self._pose, has_place=True)


class ViewRender(Render[Picture]):
    """What the scene's camera sees, as a picture that knows where the camera looked."""

    def __init__(self, scene: bpy.types.Scene, *, samples: int) -> None:
        """Raises SceneError for a camera that makes no perspective picture."""
        self._view = picture.camera_view(scene)
        _need_cycles()
        render = scene.render
        width = render.resolution_x * render.pixel_aspect_x
        height = render.resolution_y * render.pixel_aspect_y
        scale = VIEW_SIDE_PX / max(width, height)
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        super().__init__(scene, scene.camera.data.copy(), scene.camera.matrix_world.copy(), size, samples)

    def _read(self, light: pixels.Pixels) -> Picture:
        return Picture(pixels.display(light), self._view, self._source)


def _need_cycles() -> None:
    if "cycles" not in bpy.context.preferences.addons:
        raise SceneError("Cycles is disabled.", "Enable the add-on Cycles Render Engine in the preferences.")


def _remove(scene: bpy.types.Scene) -> None:
    """Remove a copy, unless it is all that is left of the file: the user deleted the scene it was made of."""
    if len(bpy.data.scenes) > 1:
        bpy.data.scenes.remove(scene)


@persistent
def remove_left_copies(*_: object) -> None:
    """Remove copies that nothing renders any more. Called by Blender: after undo, redo and loading, which may bring
    them back out of a state from the midst of a render."""
    left = [one for kind in (bpy.data.objects, bpy.data.scenes) for one in kind if _IS_COPY in one]
    for one in left:
        if one.session_uid in Render._in_use:
            continue
        if isinstance(one, bpy.types.Scene):
            _remove(one)
        else:
            bpy.data.cameras.remove(one.data)


_HANDLERS = ("undo_post", "redo_post", "load_post")


def register() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(remove_left_copies)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(remove_left_copies)
