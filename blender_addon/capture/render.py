"""Scene → panorama or picture, rendered by Cycles in a copy of the scene, so that its settings stay unchanged."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Euler, Matrix

from ...shared.atomic_write import drafts
from ...shared.engines import MAX_PANORAMA_WIDTH
from ...shared.imaging.shrink import block_means
from ...shared.protocol.errors import BusyError, Cancelled, PanoramaError, SceneError
from . import distances, picture, pixels, sources
from .picture import CutOut, Picture
from .sources import Capture

#: Longest side of a rendered camera view in pixels: the resolution of 90° in a panorama 4096 px wide.
VIEW_SIDE_PX = 1024

#: Least and largest width of a rendered world: at the least its poles and edges stay, and the largest takes half a
#: minute of processor time. Where the panorama's pixels aren't those of the HDRI, samples are twice as dense.
_WORLD_WIDTHS = (2048, 8192)
#: Width for Blender's skies, whose sun is half a degree wide.
_SKY_WIDTH = 4096

#: Custom property of the copied scenes, their cameras and copied worlds.
_IS_COPY = "panoform_render"

ResultT = TypeVar("ResultT", Capture, Picture, CutOut)


def _can_denoise() -> bool:
    """Return whether Cycles has OpenImageDenoise: rendering with it fails in builds without (Debian's 4.3)."""
    import _cycles

    return _cycles.with_openimagedenoise


def _show_no_samples(on: bool) -> None:
    """Tell Cycles not to show renders while it samples, in Blenders where that can end Blender.

    Before 5.0, Blender frees the GPU context of a scene that no window shows even while it renders: the main thread
    looks at shown scenes only (`RE_FreeUnusedGPUResources` in render/intern/pipeline.cc). Cycles then shows its samples
    in a context that is gone; with GLX that ends the process. Without a window to show them in, it needs no context.
    """
    if bpy.app.version < (5, 0):
        import _cycles
        import cycles

        settings = Path(bpy.utils.user_resource("CONFIG")).absolute().parent
        _cycles.init(str(Path(cycles.__file__).parent), str(settings), on)


class Render(abc.ABC, Generic[ResultT]):
    """A render of a scene from one camera.

    Either call `run()`, which blocks, or, in a window, `start()` and then `poll()` from a timer until it returns the
    result. Both remove the copy at the end.
    """

    #: Whether what is behind the objects is transparent.
    transparent: ClassVar[bool] = False

    #: `session_uid` of the copies that are in use: scenes, cameras, worlds.
    _in_use: ClassVar[set[int]] = set()

    def __init__(
        self, scene: bpy.types.Scene, camera_data: bpy.types.Camera, pose: Matrix, size: tuple[int, int], samples: int
    ) -> None:
        """Take ownership of `camera_data`, which is removed at the end. `size`: width and height in pixels."""
        self._source = scene.name
        self._folder = contextlib.ExitStack()
        self._file = self._folder.enter_context(drafts()) / "render.exr"
        self._started = False
        self._uids = self._prepare(scene, camera_data, pose, size, samples)
        self._in_use.update(self._uids)

    def _prepare(
        self, scene: bpy.types.Scene, camera_data: bpy.types.Camera, pose: Matrix, size: tuple[int, int], samples: int
    ) -> tuple[int, ...]:
        copy = self._copied(scene)
        copy.name = "Panoform Render"
        camera_data.name = "Panoform Render"
        camera = bpy.data.objects.new("Panoform Render", camera_data)
        camera.matrix_world = pose
        copy[_IS_COPY] = camera[_IS_COPY] = True
        copy.collection.objects.link(camera)
        copy.camera = camera

        copy.cycles.samples = samples
        copy.cycles.use_denoising &= _can_denoise()
        render = copy.render
        render.engine = "CYCLES"
        render.film_transparent = self.transparent
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
        settings.color_mode = "RGBA" if self.transparent else "RGB"
        settings.color_depth, settings.exr_codec = "32", "ZIP"
        settings.color_management = "FOLLOW_SCENE"
        layers = copy.view_layers
        rendered = next((layer for layer in layers if layer.use), layers[0])
        for layer in layers:
            layer.use = layer == rendered
        copied = [block for block in (copy, camera, copy.world) if block is not None and _IS_COPY in block]
        return tuple(block.session_uid for block in copied)

    def _copied(self, scene: bpy.types.Scene) -> bpy.types.Scene:
        """Return the scene that is rendered, which is removed at the end."""
        return scene.copy()

    def _result(self) -> ResultT:
        return self._read(*pixels.read_render(self._file))

    @abc.abstractmethod
    def _read(self, light: pixels.Pixels, alpha: np.ndarray) -> ResultT:
        """Convert the rendered pixels, in linear light, and their alpha, (H, W) float32, to the result."""

    def _scene(self) -> bpy.types.Scene | None:
        return next((scene for scene in bpy.data.scenes if scene.session_uid == self._uids[0]), None)

    def run(self) -> ResultT:
        """Render and return the result. Raise SceneError if Blender can't."""
        try:
            bpy.ops.render.render(scene=self._scene().name, write_still=True)
            return self._result()
        except RuntimeError as error:
            raise SceneError(f"Blender can't render the scene: {error}", "See Blender's console.") from error
        finally:
            self.close()

    def start(self) -> None:
        """Start rendering as a job in a window. Raise BusyError if Blender is already rendering."""
        if bpy.app.is_job_running("RENDER"):
            self.close()
            raise BusyError("Blender is rendering.", "Wait until it finishes, or cancel it with Esc.")
        view = bpy.context.preferences.view
        display, view.render_display_type = view.render_display_type, "NONE"
        _show_no_samples(True)
        self._started = True
        try:
            bpy.ops.render.render("INVOKE_DEFAULT", scene=self._scene().name, write_still=True)
        except RuntimeError as error:
            self.close()
            raise SceneError(f"Blender can't render the scene: {error}", "See Blender's console.") from error
        finally:
            view.render_display_type = display

    def poll(self) -> ResultT | None:
        """Return the result, or None while rendering. Raise Cancelled if the user stopped the render."""
        if bpy.app.is_job_running("RENDER"):
            return None
        try:
            if not self._file.exists():
                raise Cancelled("The render was stopped.")
            return self._result()
        finally:
            self.close()

    def close(self) -> None:
        """Stop the render, and remove the copied scene, its camera and the file."""
        if self._started and bpy.app.is_job_running("RENDER"):
            self._stop()
        if self._clean_up() is not None:
            bpy.app.timers.register(self._clean_up, persistent=True)

    def _stop(self) -> None:
        """Stop the render by deleting its scene, the only way from Python. Blender blocks until it has stopped."""
        scene = self._scene()
        if scene is not None and len(bpy.data.scenes) > 1:
            with bpy.context.temp_override(scene=scene):
                bpy.ops.scene.delete()

    def _clean_up(self) -> float | None:
        """Remove the copy; while Blender renders, return the seconds until the next try (for `bpy.app.timers`)."""
        if bpy.app.is_job_running("RENDER") and self._started:
            return 0.5
        if self._started:
            _show_no_samples(bpy.app.background)
        self._folder.close()
        for copy in [copy for copy in _copies() if copy.session_uid in self._uids]:
            _remove(copy)
        self._in_use.difference_update(self._uids)
        return None


class PanoramaRender(Render[Capture]):
    """An equirectangular render of the scene, in linear light."""

    def __init__(self, scene: bpy.types.Scene, pose: Matrix, *, width: int, samples: int) -> None:
        """`pose`: `capture.camera_pose` or `cursor_pose`. `width` in pixels, twice the height."""
        if not (2 <= width <= MAX_PANORAMA_WIDTH):
            raise PanoramaError(f"A panorama {width} px wide can't be rendered.", f"Use 2 to {MAX_PANORAMA_WIDTH} px.")
        _check_cycles()
        self._pose = pose.copy()
        self._known_distances = distances.measure(scene, self._pose)
        super().__init__(scene, *_panorama_camera(self._pose), (width, width // 2), samples)

    def _read(self, light: pixels.Pixels, _alpha: np.ndarray) -> Capture:
        return Capture(light, self._source, self._pose, has_position=True, known_distances=self._known_distances)


class WorldRender(Render[Capture]):
    """An equirectangular render of the scene's world alone, as Cycles' camera sees it, in linear light.

    One sample is taken at the centre of each pixel. Where all images have the same size and rotation, and at least the
    least width, these centres are those of their pixels: nothing is interpolated, and each pixel keeps its light.
    Elsewhere the samples are at most half a pixel of the image apart, up to images of half the largest width, and
    averaged, which keeps the light of a lamp of one pixel within 1 % (4 % in images narrower than the least width, 5 %
    where the image's pixels are narrow, at its poles). Random samples would need hundreds per pixel for that.

    A render of limited height takes no more samples than it has pixels: it keeps the light of lamps in images of half
    its width, and in images of the same size and rotation of its width or twice that.
    """

    def __init__(self, scene: bpy.types.Scene, height: int | None = None) -> None:
        """`height`: the largest, in pixels; None: what the world's images need.

        Raise SceneError if the world has one colour, PanoramaError if an image that it shows can't be read.
        """
        sources.check_world(scene)
        _check_cycles()
        frame = sources.common_frame(scene)
        width, self._side = _world_size(scene, height, is_aligned=frame is not None)
        self._pose = Matrix.Identity(4) if frame is None else frame
        name = scene.world.name
        super().__init__(scene, *_panorama_camera(self._pose), (width * self._side, width // 2 * self._side), 1)
        self._source = name

    def _copied(self, scene: bpy.types.Scene) -> bpy.types.Scene:
        world = scene.world.copy()
        world[_IS_COPY] = True
        engine = "CYCLES" if scene.render.engine == "CYCLES" else "EEVEE"  # whose output the user sees
        output = world.node_tree.get_output_node(engine) or world.node_tree.get_output_node("ALL")
        if output is not None:
            for node in [node for node in world.node_tree.nodes if node.bl_idname == output.bl_idname]:
                if node != output:
                    world.node_tree.nodes.remove(node)
            output.target, output.is_active_output = "ALL", True
        world.cycles_visibility.camera = True
        world.cycles.sampling_method = "NONE"  # nothing is lit
        copy = bpy.data.scenes.new("Panoform Render")
        copy.world = world
        copy.frame_set(scene.frame_current, subframe=scene.frame_subframe)
        copy.cycles.use_denoising = copy.cycles.use_adaptive_sampling = False
        # The narrowest filter: its samples are in the pixels' centres.
        copy.cycles.pixel_filter_type, copy.cycles.filter_width = "GAUSSIAN", 0.01
        return copy

    def _read(self, light: pixels.Pixels, _alpha: np.ndarray) -> Capture:
        averaged = light._replace(pixels=block_means(light.pixels, self._side)) if self._side > 1 else light
        height, width = averaged.pixels.shape[:2]
        notes = (f"The world was rendered at {width} × {height}, because its nodes do more than show an HDRI.",)
        return Capture(averaged, self._source, self._pose, is_plain=False, notes=notes)


def _world_size(scene: bpy.types.Scene, height: int | None, *, is_aligned: bool) -> tuple[int, int]:
    """Return the width of a world's panorama, even, and the side of the blocks of samples that are averaged."""
    textures = sources.world_textures(scene)
    widths = [width for width, _ in sources.shown_sizes(scene)]
    sky = _SKY_WIDTH if any(node.bl_idname == "ShaderNodeTexSky" for node in textures) else 0
    least, largest = _WORLD_WIDTHS
    wanted = max([*widths, sky])
    is_dense = (is_aligned and wanted >= least) or (0 < 2 * wanted <= least and len(widths) == len(textures))
    width = min(max(wanted // 2 * 2, least), largest if is_dense else largest // 2)
    side = 1 if is_dense else 2
    if height is not None and width * side > 2 * height:
        return min(width, 2 * height), 1
    return width, side


def _panorama_camera(pose: Matrix) -> tuple[bpy.types.Camera, Matrix]:
    """Return an equirectangular camera and its pose, for a panorama's `pose`."""
    camera_data = bpy.data.cameras.new("Panoform Render")
    camera_data.type = "PANO"
    camera_data.panorama_type = "EQUIRECTANGULAR"
    camera_data.clip_start, camera_data.clip_end = 1e-3, 1e9
    return camera_data, pose @ Euler((math.pi / 2, 0, -math.pi / 2)).to_matrix().to_4x4()


class ViewRender(Render[Picture]):
    """A render of the scene camera's view, with the camera's orientation."""

    def __init__(self, scene: bpy.types.Scene, *, samples: int) -> None:
        """Raise SceneError if the camera is not a plain perspective camera."""
        self._view = picture.camera_view(scene)
        _check_cycles()
        size = _view_size(scene.render)
        super().__init__(scene, scene.camera.data.copy(), scene.camera.matrix_world.copy(), size, samples)

    def _read(self, light: pixels.Pixels, _alpha: np.ndarray) -> Picture:
        return Picture(pixels.display(light), self._view, self._source)


class ObjectRender(Render[CutOut]):
    """A render of some objects alone from the scene's camera, in the light of the scene, on transparency."""

    transparent = True

    def __init__(self, scene: bpy.types.Scene, objects: Sequence[bpy.types.Object], *, samples: int) -> None:
        """Raise SceneError without a camera, or with a panoramic one, and for objects that renders don't show."""
        if scene.camera is None:
            raise SceneError("The scene has no camera.", "Add a camera.")
        if scene.camera.data.type == "PANO":
            raise SceneError(f"{scene.camera.name!r} is a panoramic camera.", "Set its Type to Perspective.")
        for thing in objects:
            if thing.hide_render:
                raise SceneError(f"{thing.name!r} is disabled in renders.", "Enable it, by its camera in the Outliner.")
            if not thing.visible_camera:
                raise SceneError(f"{thing.name!r} is hidden from cameras.", "Turn on its Ray Visibility ▸ Camera.")
        _check_cycles()
        self._objects, self._exposure = objects, scene.view_settings.exposure
        camera = scene.camera.data.copy()
        camera.dof.use_dof = False
        super().__init__(scene, camera, scene.camera.matrix_world.copy(), _view_size(scene.render), samples)
        self._source = scene.camera.name
        del self._objects  # undo may remove them

    def _copied(self, scene: bpy.types.Scene) -> bpy.types.Scene:
        """Return a scene of its own with the objects, and what lights them."""
        copy = bpy.data.scenes.new("Panoform Render")
        copy.world = scene.world
        copy.frame_set(scene.frame_current, subframe=scene.frame_subframe)
        copy.cycles.device, copy.cycles.film_exposure = scene.cycles.device, scene.cycles.film_exposure
        layer = next((layer for layer in scene.view_layers if layer.use), scene.view_layers[0])
        lights = [thing for thing in _rendered(layer.layer_collection) if thing.type == "LIGHT"]
        for thing in dict.fromkeys([*self._objects, *lights]):
            copy.collection.objects.link(thing)
        return copy

    def _read(self, light: pixels.Pixels, alpha: np.ndarray) -> CutOut:
        if not (alpha > 0.5).any():
            raise SceneError("The scene's camera shows nothing of the selected objects.", "Point it at them.")
        # Renders store their colours multiplied by alpha.
        plain = light._replace(pixels=light.pixels / np.maximum(alpha, 1e-6)[..., None] * 2**self._exposure)
        rgba = np.concatenate([pixels.display(plain), alpha[..., None].clip(0, 1)], axis=-1)
        return CutOut(np.ascontiguousarray((np.nan_to_num(rgba) * 255 + 0.5).astype(np.uint8)), self._source)


def _rendered(layer: bpy.types.LayerCollection) -> list[bpy.types.Object]:
    """Return the objects of collections that aren't disabled in renders."""
    if layer.collection.hide_render:
        return []
    own = [] if layer.exclude else list(layer.collection.objects)
    return [*own, *(thing for child in layer.children for thing in _rendered(child))]


def _view_size(render: bpy.types.RenderSettings) -> tuple[int, int]:
    """Return width and height of a render of the camera's view, in pixels."""
    width, height = render.resolution_x * render.pixel_aspect_x, render.resolution_y * render.pixel_aspect_y
    scale = VIEW_SIDE_PX / max(width, height)
    return max(16, round(width * scale)), max(16, round(height * scale))


def _check_cycles() -> None:
    if "cycles" not in bpy.context.preferences.addons:
        raise SceneError("Cycles is disabled.", "Enable the add-on Cycles Render Engine in the preferences.")


def _copies() -> list[bpy.types.ID]:
    """Return all copies in the file: cameras, scenes and worlds."""
    kinds = (bpy.data.objects, bpy.data.scenes, bpy.data.worlds)
    return [block for blocks in kinds for block in blocks if _IS_COPY in block]


def _remove(copy: bpy.types.ID) -> None:
    """Remove a copy; not a scene that is the only one left because the user deleted the original."""
    if isinstance(copy, bpy.types.World):
        bpy.data.worlds.remove(copy)
    elif isinstance(copy, bpy.types.Object):
        bpy.data.cameras.remove(copy.data)
    elif len(bpy.data.scenes) > 1:
        bpy.data.scenes.remove(copy)


@persistent
def remove_stale_copies(*_: object) -> None:
    """Remove copies that are not in use. A handler after undo, redo and loading, which may restore copies from a state
    saved during a render."""
    for copy in _copies():
        if copy.session_uid not in Render._in_use:
            _remove(copy)


_HANDLERS = ("undo_post", "redo_post", "load_post")


def register() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(remove_stale_copies)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(remove_stale_copies)
