"""Look around in a panorama, or in a map, in the 3D Views, before anything is built from it.

The picture is shown as the scene's world, in views that show nothing else. What the views showed before is kept here,
and comes back before the file is saved or another is loaded. Blender saves some files without asking (Auto Save, and at
its end): what their views showed is also kept in a custom property of the screen, and comes back when one is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Matrix

from ..generate import world_preview
from ..scene import environment, images

#: The near end of distances: this share of the pixels is nearer.
_NEAREST = 0.01


#: Custom property of a screen: index of the area → what its view showed.
_SHOWN = "panoform_shown"
_OVERLAYS = "show_overlays"


@dataclasses.dataclass(frozen=True)
class _Former:
    """What the views showed. They are known by their addresses, as areas may be split, moved, joined and closed."""

    views: environment.Views
    #: Address of the SpaceView3D → name → whether it showed that.
    shown: dict[int, dict[str, bool]]
    #: The addresses of all views that the file had.
    known: set[int]


_former: _Former | None = None


def is_active() -> bool:
    """Return whether the views show a picture."""
    return _former is not None


def start(scene: bpy.types.Scene, picture: np.ndarray, screens: Iterable[bpy.types.Screen]) -> None:
    """Show `picture`, (H, W, 3) uint8, top row first, around the views of `screens`, whose scene is `scene`."""
    global _former
    stop()
    found = {screen: _active(screen) for screen in screens}
    found = {screen: spaces for screen, spaces in found.items() if spaces}
    _former = _Former(
        environment.views(found),
        {space.as_pointer(): _shown(space) for spaces in found.values() for space in spaces.values()},
        {space.as_pointer() for screen in bpy.data.screens for space in _spaces(screen)},
    )
    for screen, spaces in found.items():
        screen[_SHOWN] = {str(index): _shown(space) for index, space in spaces.items()}
        for space in spaces.values():
            _show(space, dict.fromkeys(_shown(space), False))
    world_preview.show(scene, picture, Matrix.Identity(4))
    for screen in found:
        environment.enter_screen(screen, Matrix.Identity(4))


@persistent
def stop(*_: object) -> None:
    """Give the views that still exist back what they showed. Also a handler for saving, undo, redo and loading."""
    global _former
    if _former is None:
        return
    former = _former
    with contextlib.ExitStack() as steps:  # an error in one does not keep the others from being done
        for screen in bpy.data.screens:
            screen.pop(_SHOWN, None)
            for space in _spaces(screen):
                shown = former.shown.get(space.as_pointer())
                if shown is None and space.as_pointer() not in former.known and not any(_shown(space).values()):
                    shown = next(iter(former.shown.values()), None)  # made of one of them, as by Split Area
                if shown is not None:
                    steps.callback(_show, space, shown)
        steps.callback(environment.restore_views, former.views)
        steps.callback(world_preview.remove)
    _former = None


@persistent
def _restore_loaded(*_: object) -> None:
    """Give the views of a file that was saved while they showed a picture back what they showed."""
    for screen in bpy.data.screens:
        shown = screen.pop(_SHOWN, {})  # as a dict
        for index, space in _active(screen).items():
            if str(index) in shown:
                _show(space, shown[str(index)])


def _active(screen: bpy.types.Screen) -> dict[int, bpy.types.SpaceView3D]:
    """Return the views that a screen shows, by the index of the area."""
    active = {index: area.spaces.active for index, area in enumerate(screen.areas)}
    return {index: space for index, space in active.items() if isinstance(space, bpy.types.SpaceView3D)}


def _spaces(screen: bpy.types.Screen) -> list[bpy.types.SpaceView3D]:
    """Return all views of a screen, also those of areas that show another editor now."""
    return [space for area in screen.areas for space in area.spaces if isinstance(space, bpy.types.SpaceView3D)]


def _shown(space: bpy.types.SpaceView3D) -> dict[str, bool]:
    """Return which kinds of objects a view shows, and whether overlays."""
    return {**{name: getattr(space, name) for name in _kinds()}, _OVERLAYS: space.overlay.show_overlays}


def _show(space: bpy.types.SpaceView3D, shown: dict[str, bool]) -> None:
    for name, value in shown.items():
        setattr(space.overlay if name == _OVERLAYS else space, name, bool(value))


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
    bpy.app.handlers.load_post.append(_restore_loaded)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(stop)
    bpy.app.handlers.load_post.remove(_restore_loaded)
    stop()
