"""The panoramas in the scene's folder, to switch between: read from their sidecars, so that it survives all else."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import bpy

from ...shared.jobs.generate import Recipe
from ...shared.panorama_file import read_recipe
from ...shared.protocol.errors import OutputError
from ..ui import previews
from . import panoramas


class Entry(NamedTuple):
    path: Path
    recipe: Recipe


#: What was read last: the folder, when it was changed, its entries, and these as items of an enum. Kept, as Blender
#: wants the strings of an enum to live on.
_read: tuple[Path | None, int, list[Entry], list[tuple]] = (None, 0, [], [])


def entries(scene: bpy.types.Scene) -> list[Entry]:
    """Newest first."""
    return _look(scene)[0]


def chosen(scene: bpy.types.Scene) -> Entry | None:
    """The one that is the scene's world."""
    shown = panoramas.shown(scene)
    return next((entry for entry in entries(scene) if entry.path in shown), None)


def _look(scene: bpy.types.Scene) -> tuple[list[Entry], list[tuple]]:
    global _read
    folder = panoramas.folder(scene)
    changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
    if _read[:2] != (folder, changed):
        dated = [entry for entry in map(_entry, folder.glob("*.json")) if entry is not None]
        found = [entry for _, entry in sorted(dated, key=lambda pair: pair[0], reverse=True)]
        _read = (folder, changed, found, [_item(entry) for entry in found])
    return _read[2:]


def _entry(sidecar: Path) -> tuple[int, Entry] | None:
    """When it was written, and the entry; None for a JSON that is no recipe: the folder may hold anything."""
    path = sidecar.with_suffix(".exr")
    try:
        path.name.encode()  # Blender shows no name that isn't Unicode
        return (sidecar.stat().st_mtime_ns, Entry(path, read_recipe(sidecar))) if path.is_file() else None
    except (OSError, OutputError, UnicodeEncodeError):
        return None


def _item(entry: Entry) -> tuple[str, str, str, int, int]:
    number = zlib.crc32(entry.path.name.encode()) & 0x7FFFFFFF
    words = entry.recipe.settings.prompt or entry.recipe.source
    return (entry.path.name, entry.path.stem, words, previews.thumbnail(entry.path), number)


def _items(settings: bpy.types.PropertyGroup, _context: bpy.types.Context) -> list[tuple]:
    return _look(settings.id_data)[1]


def _get(settings: bpy.types.PropertyGroup) -> int:
    """The number of the panorama that is the world; 0: another is."""
    shown = {path.name for path in panoramas.shown(settings.id_data)}
    return next((item[4] for item in _items(settings, bpy.context) if item[0] in shown), 0)


def _set(settings: bpy.types.PropertyGroup, number: int) -> None:
    scene = settings.id_data
    found, items = _look(scene)
    entry = next(entry for entry, item in zip(found, items, strict=True) if item[4] == number)
    panoramas.show(scene, entry.path, panoramas.world_from_panorama(entry.recipe))


def gallery_property() -> bpy.types.EnumProperty:
    return bpy.props.EnumProperty(
        name="Panoramas", description="The panoramas made so far. Choose one as the world",
        items=_items, get=_get, set=_set,
    )  # fmt: skip
