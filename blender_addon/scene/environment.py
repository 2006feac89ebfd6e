"""Step inside an environment: 3D Views stand at the panorama's centre, and return to where they were.

The former views are stored in a custom property of the screen, so that they survive undo, saving and loading.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import bpy
from mathutils import Matrix, Quaternion, Vector

from . import world

#: Custom property of objects whose origin is the centre of a panorama, their X axis its centre.
ENVIRONMENT = "panoform_environment"
#: Of these: the world that was made with it, and a digest of the panorama that it was built from.
WORLD, SOURCE = "panoform_world", "panoform_source"
#: Custom property of all objects that were built for an environment, its camera too: their name, which copies of them
#: don't have.
PART = "panoform_part"
#: Custom property of collections that are parts of an environment's.
OWN = "panoform_own_collection"
#: Custom property of a screen: index of the area → its former view.
_VIEWS = "panoform_views"
#: Distance from the eye to the point that it turns around, and of the near clipping plane, in metres.
_PIVOT_M, _CLIP_START_M = 0.1, 0.01

#: Largest angle between an environment and its world, as long as neither is turned alone.
_SAME_RAD = 1e-3

_SHADING = ("use_scene_world", "use_scene_lights")
_REGION = ("view_perspective", "view_distance")


def camera_turn() -> Matrix:
    """Return the rotation, 4 × 4, of a camera or view that looks along +X with +Z up."""
    return Matrix.Rotation(-math.pi / 2, 4, "Z") @ Matrix.Rotation(math.pi / 2, 4, "X")


def find(context: bpy.types.Context) -> bpy.types.Object | None:
    """Return the active object if it is an environment, else the scene's newest; None if there is none."""
    active = context.view_layer.objects.active
    if active is not None and ENVIRONMENT in active:
        return active
    return next(reversed(all_in(context.scene)), None)


def all_in(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """Return the environments of a scene, the newest last."""
    return [found for found in scene.objects if ENVIRONMENT in found]


def disabled_reason() -> str:
    """Return why an operator that needs an environment is disabled; "" if there is one."""
    return "" if find(bpy.context) else "No environment was built in this scene"


def mark(collection: bpy.types.Collection) -> None:
    """Mark all objects of a built collection as parts of an environment."""
    for entry in collection.objects:
        entry[PART] = entry.name


def is_built(entry: bpy.types.Object) -> bool:
    """Return whether an object was built as a part of an environment, and is no copy that the user made of one."""
    return entry.get(PART) in (entry.name, True)  # True: by an earlier version


def of(collection: bpy.types.Collection) -> bpy.types.Object | None:
    """Return the environment in a collection; None if there is none."""
    return next((entry for entry in collection.objects if ENVIRONMENT in entry), None)


def parts(body: bpy.types.Object) -> list[bpy.types.Object]:
    """Return the objects that were built for an environment, and are still in a collection with it, or in one of its
    OWN collections.
    """
    found = {body: None}
    for collection in body.users_collection:
        for one in (collection, *own_collections(collection)):
            found |= dict.fromkeys(entry for entry in one.objects if PART in entry)
    return list(found)


def own_collections(collection: bpy.types.Collection) -> list[bpy.types.Collection]:
    """Return the collections in an environment's that Panoform made."""
    return [child for child in collection.children if OWN in child]


def collection(body: bpy.types.Object, scene: bpy.types.Scene) -> bpy.types.Collection | None:
    """Return the collection in a scene that an environment is in; None if that is only the scene's own."""
    return next((one for one in scene.collection.children_recursive if body.name in one.objects), None)


def turn(scene: bpy.types.Scene, angle: float) -> None:
    """Turn the scene's world, made by Panoform, about the vertical axis by `angle` in radians.

    Environments that stand as it does turn with it, about their centres.
    """
    pose = world.rotation(scene.world)
    if pose is None:
        return
    rotation = Matrix.Rotation(angle, 4, "Z")
    bpy.context.view_layer.update()  # matrix_world of what was moved
    for body in all_in(scene):
        if stands_as(body, scene.world):
            centre = Matrix.Translation(body.matrix_world.translation)
            moved = parts(body)
            poses = {part: centre @ rotation @ centre.inverted() @ part.matrix_world for part in moved}
            for part in moved:
                if part.parent not in moved:
                    part.matrix_world = poses[part]
    world.set_rotation(scene.world, rotation @ pose)


def stands_as(body: bpy.types.Object, shown: bpy.types.World) -> bool:
    """Return whether an environment has the rotation of a world, made by Panoform."""
    pose = world.rotation(shown)
    turned = pose and body.matrix_world.to_quaternion().rotation_difference(pose.to_quaternion())
    return turned is not None and turned.angle < _SAME_RAD


def enter(scene: bpy.types.Scene, body: bpy.types.Object) -> None:
    """Stand in the centre of `body` in all windows that show `scene`; do nothing in background mode."""
    if not bpy.app.background:
        for window in bpy.context.window_manager.windows:
            if window.scene == scene:
                enter_screen(window.screen, body.matrix_world)


def enter_screen(screen: bpy.types.Screen, pose: Matrix) -> None:
    """Move the 3D Views of a screen to the panorama's centre, looking forward, and show its materials and world.

    Views that stand in an environment already keep the view that they return to.
    """
    former = screen[_VIEWS].to_dict() if _VIEWS in screen else {}
    rotation = (pose.to_quaternion().to_matrix().to_4x4() @ camera_turn()).to_quaternion()
    for index, space, region in _views(screen):
        former.setdefault(str(index), _view(space, region))
        space.clip_start = min(space.clip_start, _CLIP_START_M)
        space.shading.type = "MATERIAL"
        space.shading.use_scene_world = space.shading.use_scene_lights = True
        region.view_perspective = "PERSP"
        region.view_rotation = rotation
        region.view_distance = _PIVOT_M
        region.view_location = pose.translation - rotation @ Vector((0, 0, _PIVOT_M))
    screen[_VIEWS] = former


def is_inside() -> bool:
    """Return whether a window has views to return to."""
    return any(_VIEWS in window.screen for window in bpy.context.window_manager.windows)


def leave() -> None:
    """Return all windows to their former views."""
    for window in bpy.context.window_manager.windows:
        if _VIEWS in window.screen:
            leave_screen(window.screen)


def leave_screen(screen: bpy.types.Screen) -> None:
    """Give the 3D Views of a screen their former views and shading back."""
    former = screen[_VIEWS].to_dict()
    del screen[_VIEWS]
    for index, space, region in _views(screen):
        if str(index) in former:
            _restore(space, region, former[str(index)])


@dataclasses.dataclass(frozen=True)
class Views:
    """The state of 3D Views. They are known by numbers, as a screen, an area or its space may be gone later."""

    #: Screen.session_uid → the views that it returns to; None: it stands in no environment.
    former: dict[int, dict | None]
    #: Address of the SpaceView3D → its view.
    shown: dict[int, dict]


def shown_screens() -> list[bpy.types.Screen]:
    """Return the screens of all windows."""
    return list({window.screen for window in bpy.context.window_manager.windows})


def views(screens: Iterable[bpy.types.Screen]) -> Views:
    """Return the state of the 3D Views of `screens`, for `restore_views`."""
    state = Views({}, {})
    for screen in screens:
        found = {space.as_pointer(): _view(space, region) for _, space, region in _views(screen)}
        if found:  # else the preferences, a render, ...
            state.former[screen.session_uid] = screen[_VIEWS].to_dict() if _VIEWS in screen else None
            state.shown.update(found)
    return state


def restore_views(state: Views) -> None:
    """Give the 3D Views that still exist the state that `views` returned, wherever they are now."""
    for screen in bpy.data.screens:
        if screen.session_uid in state.former:
            screen.pop(_VIEWS, None)
            former = state.former[screen.session_uid]
            if former is not None:
                screen[_VIEWS] = former
        for _, space, region in _views(screen):
            if space.as_pointer() in state.shown:
                _restore(space, region, state.shown[space.as_pointer()])


def _views(
    screen: bpy.types.Screen,
) -> Iterator[tuple[int, bpy.types.SpaceView3D, bpy.types.RegionView3D]]:
    for index, area in enumerate(screen.areas):
        space = area.spaces.active
        if isinstance(space, bpy.types.SpaceView3D) and space.region_3d is not None:
            yield index, space, space.region_3d


def _view(space: bpy.types.SpaceView3D, region: bpy.types.RegionView3D) -> dict:
    return {
        "clip_start": space.clip_start,
        "shading": space.shading.type,
        "view_rotation": list(region.view_rotation),
        "view_location": list(region.view_location),
        **{name: getattr(space.shading, name) for name in _SHADING},
        **{name: getattr(region, name) for name in _REGION},
    }


def _restore(space: bpy.types.SpaceView3D, region: bpy.types.RegionView3D, view: dict) -> None:
    space.clip_start = view["clip_start"]
    for name in _SHADING:
        setattr(space.shading, name, bool(view[name]))
    space.shading.type = view["shading"]
    for name in _REGION:
        setattr(region, name, view[name])
    region.view_rotation = Quaternion(view["view_rotation"])
    region.view_location = Vector(view["view_location"])
