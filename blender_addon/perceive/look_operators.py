"""The operators to look around in the source, or in a map of the last result."""

from __future__ import annotations

from typing import Any, ClassVar

import bpy
import numpy as np
from bpy.props import EnumProperty

from ...shared.maps import MAPS
from ...shared.protocol.errors import SceneError
from ..capture import pixels, sources
from ..jobs.manager import jobs
from ..ui.operator_parts import FINISHED, poll_unless, reporting
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


def source_picture(scene: bpy.types.Scene) -> np.ndarray:
    """Return the source, (H, W, 3) uint8. Raise SceneError for one that is yet to be rendered, PanoramaError."""
    settings = scene.panoform
    match settings.source:
        case "WORLD":
            captured = sources.from_world(scene, _HEIGHT_PX)
        case "IMAGE" if settings.image is not None:
            captured = sources.from_image(settings.image, settings.layer, _HEIGHT_PX)
        case "FILE" if settings.filepath:
            captured = sources.from_file(bpy.path.abspath(settings.filepath), settings.layer, _HEIGHT_PX)
        case _:
            raise SceneError("There is no panorama yet.", "Choose one as the source, or press Render Panorama.")
    return (np.nan_to_num(pixels.display(captured.panorama)).clip(0, 1) * 255 + 0.5).astype(np.uint8)


class PANOFORM_OT_look_around(bpy.types.Operator):
    """Look around in the source, or in a map of the last result, in the 3D Views. Builds nothing"""

    bl_idname = "panoform.look_around"
    bl_label = "Look Around"
    bl_options: ClassVar = {"INTERNAL"}

    of: EnumProperty(name="Of", items=_choices)

    poll = poll_unless(_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        name = self.of.lower()
        picture = source_picture(context.scene) if name == "source" else look_around.map_picture(name, maps()[name])
        windows = [window for window in context.window_manager.windows if window.scene == context.scene]
        look_around.start(context.scene, picture, [window.screen for window in windows])
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
