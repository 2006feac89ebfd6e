"""The gallery: the panoramas in the scene's folder, listed from their sidecar files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import bpy
from bpy.props import EnumProperty

from ...shared.imaging import headers
from ...shared.jobs.generate import Recipe
from ...shared.panorama_file import read_recipe
from ...shared.protocol.errors import OutputError, PanoramaError
from ..ui import previews
from . import panoramas


class Entry(NamedTuple):
    path: Path
    recipe: Recipe


#: Cache: the folder, its modification time, its entries, and these as enum items. Also keeps references to the enum's
#: strings, which Blender requires.
_cache: tuple[Path | None, int, list[Entry], list[tuple]] = (None, 0, [], [])


def entries(scene: bpy.types.Scene) -> list[Entry]:
    """Return the entries of the scene's folder, newest first."""
    return _read(scene)[0]


def active(scene: bpy.types.Scene) -> Entry | None:
    """Return the entry that the scene's world shows."""
    paths = panoramas.world_files(scene)
    return next((entry for entry in entries(scene) if entry.path in paths), None)


def _read(scene: bpy.types.Scene) -> tuple[list[Entry], list[tuple]]:
    global _cache
    folder = panoramas.folder(scene)
    modified = folder.stat().st_mtime_ns if folder.is_dir() else 0
    if _cache[:2] != (folder, modified):
        dated = [entry for entry in map(_entry, folder.glob("*.json")) if entry is not None]
        found = [entry for _, entry in sorted(dated, key=lambda pair: pair[0], reverse=True)]
        _cache = (folder, modified, found, [_item(entry) for entry in found])
    return _cache[2:]


def _entry(sidecar: Path) -> tuple[int, Entry] | None:
    """Return the modification time and the entry; None for a file that is not a sidecar of a panorama."""
    path = sidecar.with_suffix(".exr")
    try:
        path.name.encode()  # Blender can't show names that aren't valid Unicode
        if path.is_file():
            headers.check_file(path)  # Blender decodes it for its thumbnail
        return (sidecar.stat().st_mtime_ns, Entry(path, read_recipe(sidecar))) if path.is_file() else None
    except (OSError, OutputError, PanoramaError, UnicodeEncodeError):
        return None


def _item(entry: Entry) -> tuple[str, str, str, int, int]:
    number = zlib.crc32(entry.path.name.encode()) & 0x7FFFFFFF
    description = entry.recipe.settings.prompt or entry.recipe.source
    return (entry.path.name, entry.path.stem, description, previews.thumbnail(entry.path), number)


def _items(settings: bpy.types.PropertyGroup, _context: bpy.types.Context) -> list[tuple]:
    return _read(settings.id_data)[1]


def _get(settings: bpy.types.PropertyGroup) -> int:
    """Return the number of the entry that the world shows; 0 for none."""
    names = {path.name for path in panoramas.world_files(settings.id_data)}
    return next((item[4] for item in _items(settings, bpy.context) if item[0] in names), 0)


def _set(settings: bpy.types.PropertyGroup, number: int) -> None:
    scene = settings.id_data
    found, items = _read(scene)
    entry = next(entry for entry, item in zip(found, items, strict=True) if item[4] == number)
    panoramas.show(scene, entry.path, panoramas.world_from_panorama(entry.recipe))


def gallery_property() -> EnumProperty:
    return EnumProperty(
        name="Panoramas", description="Generated panoramas. Select one to use it as the world",
        items=_items, get=_get, set=_set,
    )  # fmt: skip
