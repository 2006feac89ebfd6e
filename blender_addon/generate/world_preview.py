"""Previews of the panorama being generated, shown as the scene's world.

The preview is a separate world that stores which world it replaces, so that it can be removed at any time, even when
undo or loading a file restored it. A render reads the world on its own thread: while one runs, the preview is neither
changed nor removed.
"""

from __future__ import annotations

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Matrix

from ..scene import world
from ..scene.world import INSTEAD_OF, IS_PREVIEW

NAME = "Panoform Preview"


def show(scene: bpy.types.Scene, picture: np.ndarray, world_from_panorama: Matrix) -> None:
    """Show `picture`, (H, W, 3) uint8, top row first, as the scene's world. Do nothing while Blender renders."""
    if bpy.app.is_job_running("RENDER"):
        return
    height, width, _ = picture.shape
    image = bpy.data.images.get(NAME) or bpy.data.images.new(NAME, width, height, alpha=False)
    if tuple(image.size) != (width, height):
        image.scale(width, height)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = picture[::-1] / np.float32(255)
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    if scene.world is not None and IS_PREVIEW in scene.world:
        scene.world.update_tag()
        return
    preview = world.create(NAME, image, world_from_panorama)
    preview[IS_PREVIEW] = True
    if scene.world is not None:
        preview[INSTEAD_OF] = scene.world
    scene.world = preview


def exists() -> bool:
    """Return whether the file holds a preview, used by a scene or not."""
    return any(IS_PREVIEW in world for world in bpy.data.worlds)


@persistent
def remove(*_: object) -> None:
    """Remove the preview and restore each scene's world. Also a handler for saving, undo, redo and loading."""
    previews = [world for world in bpy.data.worlds if IS_PREVIEW in world]
    for scene in bpy.data.scenes:
        if scene.world in previews:
            scene.world = scene.world.get(INSTEAD_OF)
    if bpy.app.is_job_running("RENDER"):
        return  # the timer calls again
    if previews:
        bpy.data.batch_remove(previews)
    image = bpy.data.images.get(NAME)
    if image is not None:
        bpy.data.images.remove(image)


_HANDLERS = ("save_pre", "undo_post", "redo_post", "load_post")


def register() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(remove)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(remove)
    remove()
