"""The world of a scene, read or rendered at once, as in background mode."""

from __future__ import annotations

import bpy

from panoform.blender_addon.capture import sources
from panoform.blender_addon.capture.render import WorldRender
from panoform.blender_addon.capture.sources import Capture


def from_world(scene: bpy.types.Scene, height: int | None = None) -> Capture:
    """Read the scene's world as Blender displays it; `height` as in the two that do it."""
    return sources.from_plain_world(scene, height) or WorldRender(scene, height).run()
