"""Look around in a panorama, or in a map, in the 3D Views, before anything is built from it.

The picture is shown as the scene's world, in views that show nothing else. What the views showed before is kept here,
and comes back before the file is saved or another is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Matrix

from ..generate import world_preview
from ..scene import environment, images

#: The near end of distances: this share of the pixels is nearer.
_NEAREST = 0.01


@dataclasses.dataclass(frozen=True)
class _Former:
    """What the views showed."""

    views: Any
    #: Space → name → value, of what is hidden in it.
    shown: list[tuple[bpy.types.SpaceView3D, dict[str, bool], bool]]


_former: _Former | None = None


def is_active() -> bool:
    """Return whether the views show a picture."""
    return _former is not None


def start(scene: bpy.types.Scene, picture: np.ndarray, screens: Iterable[bpy.types.Screen]) -> None:
    """Show `picture`, (H, W, 3) uint8, top row first, around the views of `screens`, whose scene is `scene`."""
    global _former
    stop()
    spaces = [area.spaces.active for screen in screens for area in screen.areas if area.type == "VIEW_3D"]
    shown = [
        (space, {name: getattr(space, name) for name in _kinds()}, space.overlay.show_overlays) for space in spaces
    ]
    _former = _Former(environment.views(), shown)
    for space in spaces:
        for name in _kinds():
            setattr(space, name, False)
        space.overlay.show_overlays = False
    world_preview.show(scene, picture, Matrix.Identity(4))
    for screen in screens:
        environment.enter_screen(screen, Matrix.Identity(4))


@persistent
def stop(*_: object) -> None:
    """Give the views back what they showed. Also a handler for saving, undo, redo and loading."""
    global _former
    if _former is None:
        return
    former, _former = _former, None
    world_preview.remove()
    environment.restore_views(former.views)
    for space, kinds, overlays in former.shown:
        for name, value in kinds.items():
            setattr(space, name, value)
        space.overlay.show_overlays = overlays


def _kinds() -> list[str]:
    """Return the properties of a view that show the kinds of objects."""
    return [name for name in bpy.types.SpaceView3D.bl_rna.properties.keys() if name.startswith("show_object_viewport_")]  # noqa: SIM118


def map_picture(name: str, data: np.ndarray) -> np.ndarray:
    """Return a picture, (H, W, 3) uint8, of the map `name` from the content of its file, (bytes,) uint8.

    Distances are brighter where they are nearer, normals (-1 to 1) lie in [0, 1]. Raise PanoramaError.
    """
    image = images.create_from_file(f"{name} to look at", data, "Non-Color")
    width, height = image.size
    rgba = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(rgba)
    bpy.data.images.remove(image)
    values = rgba.reshape(height, width, 4)[::-1, :, :3]
    if name == "distance":
        values = _nearness(values[..., 0])[..., None].repeat(3, axis=2)
    elif name == "normal":
        values = values / 2 + 0.5
    return (np.nan_to_num(values).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _nearness(distance: np.ndarray) -> np.ndarray:
    """Return 1 for the nearest of distances (H, W), and 0 for infinite ones."""
    known = distance[np.isfinite(distance) & (distance > 0)]
    if not known.size:
        return np.zeros_like(distance)
    near = np.quantile(known, _NEAREST)
    return np.divide(near, distance, out=np.zeros_like(distance), where=np.isfinite(distance) & (distance > 0))


_HANDLERS = ("save_pre", "undo_pre", "redo_pre", "load_pre")


def register() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(stop)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(stop)
    stop()
