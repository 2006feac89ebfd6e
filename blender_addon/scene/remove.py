"""Remove an environment with everything that was made for it, or let a new one take its place."""

from __future__ import annotations

import re

import bpy

from . import environment, world

_NUMBER = re.compile(r"\.\d{3}$")


def remove(body: bpy.types.Object) -> str:
    """Remove an environment and return the name of its collection.

    What the user has added, to its collection or by using its materials elsewhere, stays. Scenes that its world lights
    get their own world back.
    """
    shown = body.get(environment.WORLD)
    for scene in bpy.data.scenes if shown is not None else ():
        if scene.world == shown:
            world.restore(scene)
    collections = [one for one in body.users_collection if one in set(bpy.data.collections)]
    name = collections[0].name if collections else body.name
    doomed = made_for(body)
    doomed |= {one for one in collections if not one.children and set(one.objects) <= doomed}
    bpy.data.batch_remove(doomed)
    return name


def made_for(body: bpy.types.Object) -> set[bpy.types.ID]:
    """Return the objects and the world of an environment, and what nothing else uses: their data, materials, images."""
    found: set[bpy.types.ID] = set(environment.parts(body))
    if body.get(environment.WORLD) is not None:
        found.add(body[environment.WORLD])
    users = bpy.data.user_map()
    size = 0
    while size < len(found):
        size = len(found)
        found |= {block for block, by in users.items() if by and by <= found and not block.use_fake_user}
    return found


def replace_earlier(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Remove the environments in `scene` that were built from the source of the new one in `collection`, before it.

    The new datablocks take over the names.
    """
    body = environment.of(collection)
    if body is None:
        return
    source = body[environment.SOURCE]
    earlier = [one for one in environment.all_in(scene) if one != body and one.get(environment.SOURCE) == source]
    for one in earlier:
        remove(one)
    if earlier:
        for block in (*made_for(body), collection):
            block.name = _NUMBER.sub("", block.name)
