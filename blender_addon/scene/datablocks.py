"""Datablocks that don't stay: those of an unfinished build, and those that an export needs for a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import bpy

#: Collections of bpy.data that a build or an export adds to, users before what they use.
_KINDS = (
    "collections", "objects", "worlds", "meshes", "cameras", "lights", "materials", "node_groups", "images", "actions",
)  # fmt: skip


@contextlib.contextmanager
def all_or_nothing(scene: bpy.types.Scene) -> Iterator[None]:
    """On an exception, remove all datablocks created inside, give `scene` its world and camera back, and re-raise."""
    before = _existing()
    world, camera = scene.world, scene.camera
    kept = world is not None and world.use_fake_user
    try:
        yield
    except BaseException:
        scene.world, scene.camera = world, camera
        if world is not None:
            world.use_fake_user = kept
        _remove_others(before)
        raise


@contextlib.contextmanager
def temporary_scene(name: str) -> Iterator[bpy.types.Scene]:
    """Show an empty scene in the current window; at the end, remove it and all datablocks created inside.

    The exporters need it to be shown: they write the window's scene. Datablocks that `take_name` renamed inside get
    their names back.
    """
    before = _existing()
    names = [(block, block.name) for kind in _KINDS for block in before[kind]]
    window = bpy.context.window
    shown, layer = window.scene, window.view_layer
    scene = bpy.data.scenes.new(name)
    try:
        window.scene = scene
        yield scene
    finally:
        window.scene, window.view_layer = shown, layer
        bpy.data.scenes.remove(scene)
        _remove_others(before)
        for block, own in names:
            if block.name != own:
                block.name = own


def take_name(block: bpy.types.Object, name: str) -> None:
    """Name an object, as Blender does only if no other has the name: another one gets a new name."""
    other = bpy.data.objects.get(name)
    if other is not None and other != block and other.library is None:
        other.name = f"{name} (exported)"
    block.name = name


def _existing() -> dict[str, set[bpy.types.ID]]:
    return {kind: set(getattr(bpy.data, kind)) for kind in _KINDS}


def _remove_others(before: dict[str, set[bpy.types.ID]]) -> None:
    bpy.data.batch_remove([block for kind in _KINDS for block in set(getattr(bpy.data, kind)) - before[kind]])
