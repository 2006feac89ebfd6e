"""Datablocks that don't stay: those of an unfinished build, and those that an export needs for a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import bpy

from . import environment, world

#: Collections of bpy.data that a build or an export adds to, users before what they use.
_KINDS = (
    "collections", "objects", "worlds", "meshes", "cameras", "lights", "materials", "node_groups", "images", "textures",
    "actions",
)  # fmt: skip


@contextlib.contextmanager
def all_or_nothing(scene: bpy.types.Scene, undo: Callable[[], None] | None = None) -> Iterator[None]:
    """On any exception in the block, give the file the state from before, and re-raise.

    All datablocks created inside are removed. Of those that existed, names and fake users, the worlds and cameras of
    scenes, parents, visibility, the selection in `scene` and the 3D Views are restored. What the block removes can't
    be: it does so by one call, the last one, after which it has succeeded. `undo` restores what else the block changes.
    """
    before = _existing()
    state = _State(scene, before)
    try:
        yield
    except BaseException:
        now = _existing()
        if all(blocks <= now[kind] for kind, blocks in before.items()):
            if undo is not None:
                undo()
            state.restore()
            _remove_others(before)
            state.restore_names()
        raise


class _State:
    """What a build may change in a file, besides adding datablocks."""

    def __init__(self, scene: bpy.types.Scene, before: dict[str, set[bpy.types.ID]]) -> None:
        self._names = [(block, block.name, block.use_fake_user) for blocks in before.values() for block in blocks]
        self._scenes = [(one, one.world, one.camera, world.own(one)) for one in bpy.data.scenes]
        self._shown = [(thing, thing.hide_viewport, thing.hide_render) for thing in bpy.data.objects]
        self._parts = [(thing, thing[environment.PART]) for thing in bpy.data.objects if environment.PART in thing]
        self._children = [
            (thing, _parent(thing), thing.matrix_parent_inverse.copy(), thing.matrix_basis.copy())
            for thing in bpy.data.objects
            if thing.parent is not None
        ]
        self._layers = [(layer, layer.objects.active, set(layer.objects.selected)) for layer in scene.view_layers]
        self._views = environment.views(environment.shown_screens())

    def restore(self) -> None:
        for scene, shown, camera, own in self._scenes:
            if (scene.world, scene.camera, world.own(scene)) != (shown, camera, own):
                scene.world, scene.camera = shown, camera
                world.set_own(scene, own)
        for thing, in_view, in_render in self._shown:
            if (thing.hide_viewport, thing.hide_render) != (in_view, in_render):
                thing.hide_viewport, thing.hide_render = in_view, in_render
        for thing, part in self._parts:
            if thing.get(environment.PART) != part:
                thing[environment.PART] = part
        for thing, parent, inverse, basis in self._children:
            if _parent(thing) != parent:
                thing.parent, thing.parent_type, thing.parent_bone, thing.parent_vertices = parent
                thing.matrix_parent_inverse, thing.matrix_basis = inverse, basis
        for layer, active, selected in self._layers:
            for thing in layer.objects:
                if thing.select_get(view_layer=layer) != (thing in selected):
                    thing.select_set(thing in selected, view_layer=layer)
            layer.objects.active = active
        environment.restore_views(self._views)

    def restore_names(self) -> None:
        """Restore names, which datablocks created since may have had, and fake users."""
        for block, name, kept in self._names:
            if block.name != name:
                block.name = name
            if block.use_fake_user != kept:
                block.use_fake_user = kept


def _parent(thing: bpy.types.Object) -> tuple[bpy.types.Object | None, str, str, tuple[int, ...]]:
    """Return the parent, and to which part of it the object is attached."""
    return thing.parent, thing.parent_type, thing.parent_bone, tuple(thing.parent_vertices)


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
