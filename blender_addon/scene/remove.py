"""Remove environments with everything that was made for them, or let a new one take their place, wherever that is."""

from __future__ import annotations

import re
from collections.abc import Iterable

import bpy
from mathutils import Matrix

from . import environment, scale, world

_NUMBER = re.compile(r"\.\d{3}$")
#: Custom property of datablocks other than objects that were made for an environment.
MADE = "panoform_made_for"
#: Largest difference from the identity, in metres and in ratios, of the motion of what was not moved.
_SAME = 1e-5


def remember(body: bpy.types.Object) -> None:
    """Mark what was made for an environment that has just been built, so that what is added later stays."""
    for block in _belonging([body]):
        if not isinstance(block, bpy.types.Object):
            block[MADE] = True
    scale.store_place(body, body.matrix_world)


def remove(*bodies: bpy.types.Object) -> str:
    """Remove environments and return the name of the last one's collection.

    What the user has added stays: in its collection, as a child, as a copy, or by using its materials elsewhere. Scenes
    that its world lights get their own world back.
    """
    collections = _collections(bodies)
    name = next((one.name for one in bodies[-1].users_collection if one in collections), bodies[-1].name)
    bpy.data.batch_remove(_doomed(bodies))
    return name


def _collections(bodies: Iterable[bpy.types.Object]) -> set[bpy.types.Collection]:
    found = {one for body in bodies for one in body.users_collection} & set(bpy.data.collections)
    return found | {own for one in found for own in environment.own_collections(one)}


def _doomed(bodies: tuple[bpy.types.Object, ...]) -> set[bpy.types.ID]:
    """Return what is removed with environments, after nothing that stays depends on it any more."""
    for body in bodies:
        shown = body.get(environment.WORLD)
        for scene in bpy.data.scenes if shown is not None else ():
            if scene.world == shown:
                world.restore(scene)
    belonging = _belonging(bodies)
    doomed = {block for block in belonging if isinstance(block, bpy.types.Object) or block.get(MADE)}
    for block in belonging - doomed:  # the user's own, that only the environment used
        block.use_fake_user = True
    for child in bpy.data.objects:
        if child.parent in doomed and child not in doomed:
            place = child.matrix_world.copy()
            child.parent = None
            child.matrix_world = place
    empty = {one for one in _collections(bodies) if not one.children and set(one.objects) <= doomed}
    return doomed | empty | {
        one for one in _collections(bodies) if set(one.children) <= empty and set(one.objects) <= doomed
    }  # fmt: skip


def _belonging(bodies: list[bpy.types.Object] | tuple[bpy.types.Object, ...]) -> set[bpy.types.ID]:
    """Return the objects and worlds of environments, and what nothing else uses: their data, materials, images."""
    found: set[bpy.types.ID] = set(bodies)
    for body in bodies:
        found |= {part for part in environment.parts(body) if environment.is_built(part)}
        if body.get(environment.WORLD) is not None:
            found.add(body[environment.WORLD])
    users = bpy.data.user_map()
    size = 0
    while size < len(found):
        size = len(found)
        found |= {block for block, by in users.items() if by and by <= found and not block.use_fake_user}
    return found


def take_place(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Move the new environment in `collection` as the newest that `replace_earlier` would remove was moved by the user.

    Its world turns with it, if the earlier one stands as its own world does.
    """
    body = environment.of(collection)
    earlier = [] if body is None else _earlier(scene, body)
    if body is None or not earlier:
        return
    scene.view_layers[0].update()  # matrix_world of what was moved
    was = earlier[-1]
    motion = was.matrix_world @ scale.place(was).inverted()
    if all(abs(value) < _SAME for row in motion - Matrix.Identity(4) for value in row):
        return
    scale.move(body, motion)
    former, shown = was.get(environment.WORLD), body.get(environment.WORLD)
    if former is not None and shown is not None and environment.stands_as(was, former):
        world.set_rotation(shown, motion.to_quaternion().to_matrix().to_4x4() @ world.rotation(shown))


def _earlier(scene: bpy.types.Scene, body: bpy.types.Object) -> list[bpy.types.Object]:
    """Return the environments in `scene` that were built from the panorama of `body` before it, the newest last."""
    source = body[environment.SOURCE]
    return [
        one
        for one in environment.all_in(scene)
        if one != body and one.get(environment.SOURCE) == source and environment.is_built(one)
    ]


def replace_earlier(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Remove the environments in `scene` that were built from the panorama of the new one in `collection`, before it.

    The new datablocks take over the names, and the new camera the place of a camera that goes.
    """
    body = environment.of(collection)
    if body is None:
        return
    earlier = _earlier(scene, body)
    if not earlier:
        return
    doomed = _doomed(tuple(earlier))
    if scene.camera in doomed:
        scene.camera = next((entry for entry in collection.objects if entry.type == "CAMERA"), None)
    for block in doomed:
        block.name = f"{block.name} replaced"
    for block in (*_belonging([body]), collection):
        block.name = _NUMBER.sub("", block.name)
    environment.mark(collection)
    bpy.data.batch_remove(doomed)
