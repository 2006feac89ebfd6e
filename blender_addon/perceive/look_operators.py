"""The operators to look around in the source, or in a map of the last result."""

from __future__ import annotations

from typing import Any, ClassVar

import bpy
import numpy as np
from bpy.props import EnumProperty

from ...shared.maps import MAPS
from ...shared.protocol.errors import SceneError
from ..capture import pixels, sources
from ..capture.render import Render, WorldRender
from ..capture.sources import Capture
from ..jobs import timer
from ..jobs.manager import jobs
from ..jobs.specs import JobSpec
from ..ui.operator_parts import FINISHED, poll_unless, reporting, start_render
from . import look_around

#: Rows of the source that are shown.
_HEIGHT_PX = 1024
#: What Blender needs kept of the menu's items.
_items: list[tuple[str, str, str]] = []


def maps() -> dict[str, np.ndarray]:
    """Return map → content of its file, of the newest result that has maps."""
    kept = [jobs.job.kept] if jobs.job is not None and jobs.job.kept is not None else []
    for result in (*kept, *jobs.results):
        found: dict[str, Any] = getattr(result.reply, "maps", None) or {}
        files = getattr(result.spec.request, "files", None) or {}
        found = found or {kind.name: files[kind.filename] for kind in MAPS.values() if kind.filename in files}
        if found:
            return found
    return {}


def _choices(_self: bpy.types.Operator, _context: bpy.types.Context) -> list[tuple[str, str, str]]:
    _items[:] = [("SOURCE", "Source", "The panorama that would be perceived")]
    _items.extend((name.upper(), MAPS[name].label, "A map of the last result") for name in MAPS if name in maps())
    return _items


def _disabled_reason() -> str:
    if bpy.app.background:
        return "Needs a window"
    return "A Panoform job is running" if jobs.job is not None else ""


class LookSpec(JobSpec):
    """Show the source around the views: once it is rendered, where it is a world that must be."""

    label: ClassVar = "Look Around"
    changes_file: ClassVar = False

    def build(self, reply: None, scene: bpy.types.Scene) -> str:
        _start(scene, picture(self.source))
        return ""


def source(scene: bpy.types.Scene) -> Capture | Render[Capture]:
    """Return the source, or the started render of it. Raise SceneError for a scene that isn't rendered yet,
    PanoramaError, BusyError while Blender renders."""
    settings = scene.panoform
    match settings.source:
        case "WORLD":
            return sources.from_plain_world(scene, _HEIGHT_PX) or start_render(WorldRender(scene, _HEIGHT_PX))
        case "IMAGE" if settings.image is not None:
            return sources.from_image(settings.image, settings.layer, _HEIGHT_PX)
        case "FILE" if settings.filepath:
            return sources.from_file(bpy.path.abspath(settings.filepath), settings.layer, _HEIGHT_PX)
        case _:
            raise SceneError("There is no panorama yet.", "Choose one as the source, or press Render Panorama.")


def picture(captured: Capture) -> np.ndarray:
    """Return a source as Blender displays it, (H, W, 3) uint8."""
    return (np.nan_to_num(pixels.display(captured.panorama)).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _start(scene: bpy.types.Scene, shown: np.ndarray) -> None:
    windows = [window for window in bpy.context.window_manager.windows if window.scene == scene]
    look_around.start(scene, shown, [window.screen for window in windows])


class PANOFORM_OT_look_around(bpy.types.Operator):
    """Look around in the source, or in a map of the last result, in the 3D Views. Builds nothing"""

    bl_idname = "panoform.look_around"
    bl_label = "Look Around"
    bl_options: ClassVar = {"INTERNAL"}

    of: EnumProperty(name="Of", items=_choices)

    poll = poll_unless(_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene, name = context.scene, self.of.lower()
        if name != "source":
            _start(scene, look_around.map_picture(name, maps()[name]))
            return FINISHED
        captured = source(scene)
        if isinstance(captured, Render):
            jobs.begin(LookSpec(source=captured, name=scene.world.name, scene_uid=scene.session_uid))
            timer.start()
        else:
            _start(scene, picture(captured))
        return FINISHED


class PANOFORM_OT_stop_looking(bpy.types.Operator):
    """Show the scene again, as it was seen before"""

    bl_idname = "panoform.stop_looking"
    bl_label = "Back to My View"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(lambda: "" if look_around.is_active() else "The views show the scene")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        look_around.stop()
        return FINISHED


CLASSES = (PANOFORM_OT_look_around, PANOFORM_OT_stop_looking)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
