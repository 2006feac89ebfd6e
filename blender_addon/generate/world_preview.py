"""What a panorama looks like while it is made, in the world itself.

The preview is a world of its own, which remembers the one it stands for; so it can be taken away at any time, also out
of a state that undo or a file brought back. A render reads it on a thread of its own: until that has ended, the preview
is neither changed nor removed.
"""

from __future__ import annotations

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Matrix

from ..scene import world

NAME = "Panoform Preview"
#: Custom properties of the preview world: what it is, and the scene's own world (none: the scene had none).
_IS_PREVIEW, _INSTEAD_OF = "panoform_preview", "panoform_instead_of"


def show(scene: bpy.types.Scene, picture: np.ndarray, world_from_panorama: Matrix) -> None:
    """Show `picture`, (H, W, 3) uint8, top row first, as the scene's world; not while Blender renders."""
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
    if scene.world is not None and _IS_PREVIEW in scene.world:
        scene.world.update_tag()
        return
    preview = world.create(NAME, image, world_from_panorama)
    preview[_IS_PREVIEW] = True
    if scene.world is not None:
        preview[_INSTEAD_OF] = scene.world
    scene.world = preview


def lasts() -> bool:
    """Whether it is in the file, be it the world of a scene or not any more."""
    return any(_IS_PREVIEW in found for found in bpy.data.worlds)


@persistent
def end(*_: object) -> None:
    """Give every scene its own world again. Also called by Blender: before saving, after undo, redo and loading."""
    previews = [found for found in bpy.data.worlds if _IS_PREVIEW in found]
    for scene in bpy.data.scenes:
        if scene.world in previews:
            scene.world = scene.world.get(_INSTEAD_OF)
    if bpy.app.is_job_running("RENDER"):
        return  # the pump calls again
    if previews:
        bpy.data.batch_remove(previews)
    image = bpy.data.images.get(NAME)
    if image is not None:
        bpy.data.images.remove(image)


_HANDLERS = ("save_pre", "undo_post", "redo_post", "load_post")


def register() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(end)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(end)
    end()
