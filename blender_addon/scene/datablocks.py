"""Building is all or nothing: what an unfinished build has created is removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import bpy

#: Collections of bpy.data that a build adds to, users before what they use.
_KINDS = ("collections", "objects", "worlds", "meshes", "cameras", "materials", "node_groups", "images")


@contextlib.contextmanager
def all_or_nothing(scene: bpy.types.Scene) -> Iterator[None]:
    """On an exception, remove all datablocks created inside, give `scene` its world and camera back, and re-raise."""
    before = {kind: set(getattr(bpy.data, kind)) for kind in _KINDS}
    world, camera = scene.world, scene.camera
    kept = world is not None and world.use_fake_user
    try:
        yield
    except BaseException:
        scene.world, scene.camera = world, camera
        if world is not None:
            world.use_fake_user = kept
        bpy.data.batch_remove([block for kind in _KINDS for block in set(getattr(bpy.data, kind)) - before[kind]])
        raise
