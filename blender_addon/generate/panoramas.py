"""Panoramas that were generated or edited: an EXR each, its recipe beside it and inside it, shown as a world.

The files are what `panoform generate --out` writes too (backend/io/generated.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import bpy
import msgspec
import numpy as np
from mathutils import Euler, Matrix

from ...shared import panorama_file
from ...shared.atomic_write import atomic_write_all
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs.generate import Recipe
from ...shared.protocol.errors import OutputError
from .. import preferences
from ..capture.sources import image_file
from ..scene import world
from . import exr

#: Attribute of the EXR's header that holds the recipe as JSON.
ATTRIBUTE = "panoform"
#: Longest part of a file's name that is made of the words.
_NAME_LENGTH = 40
#: What can't be in a file's name, on one system or another. (Blender's own `clean_name` takes ä and é for bad too.)
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


def folder(scene: bpy.types.Scene) -> Path:
    """Where the scene's panoramas lie; of a .blend that isn't saved yet, in the add-on's own folder."""
    chosen = scene.panoform.generate.folder
    if not chosen or (chosen.startswith("//") and not bpy.data.filepath):
        return preferences.get().environment_folder() / "panoramas"
    return Path(bpy.path.abspath(chosen))


def free_path(folder: Path, words: str, last: int | str) -> Path:
    """ "a stone courtyard 7.exr" for those words and 7, or "a stone courtyard 7 2.exr" where that is taken."""
    name = _NOT_IN_NAMES.sub(" ", words[:_NAME_LENGTH]).strip() or "panorama"
    stem = f"{name} {last}"
    path, count = folder / f"{stem}.exr", 1
    while path.exists() or path.with_suffix(".json").exists():
        count += 1
        path = folder / f"{stem} {count}.exr"
    return path


def check_path(path: Path, seeds: Sequence[int], sources: Iterable[bpy.types.Image]) -> None:
    """Raises OutputError for another format, a folder that isn't there, and as panorama_file.check_path."""
    if path.suffix.lower() != ".exr":
        raise OutputError(f"{path.name} is no EXR.", "Name it .exr: an environment is light.")
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent}.", "Make it, or write elsewhere.")
    panorama_file.check_path(path, seeds, [image_file(image) for image in sources])


def write(path: Path, panorama: np.ndarray, recipe: Recipe) -> None:
    """Writes the panorama, in its recipe's encoding, as light, and its sidecar. Raises OutputError."""
    light = linear_from_srgb(panorama) if recipe.encoding == "srgb" else panorama
    text = msgspec.json.format(msgspec.json.encode(recipe), indent=2)
    _write_whole({path: exr.encode(light, {ATTRIBUTE: text.decode()}), path.with_suffix(".json"): text + b"\n"})


def write_light(path: Path, light: np.ndarray) -> None:
    """Writes (H, W, 3) linear light that no recipe tells of. Raises OutputError."""
    _write_whole({path: exr.encode(light, {})})


def _write_whole(contents: dict[Path, bytes]) -> None:
    """All of the files or none of them, the first being a panorama; images of it are read again."""
    path = next(iter(contents))
    atomic_write_all(contents, make_folders=True)
    for image in bpy.data.images:
        if image_file(image) == path:
            image.reload()


def turned(recipe: Recipe, world_from_panorama: Matrix) -> Recipe:
    """The recipe, with how its panorama is turned in the world (4 × 4, a rotation)."""
    angles = (round(math.degrees(angle), 4) for angle in world_from_panorama.to_euler("XYZ"))
    return msgspec.structs.replace(recipe, turn=tuple(angles))


def world_from_panorama(recipe: Recipe) -> Matrix:
    """How the recipe's panorama is turned, 4 × 4."""
    return Euler([math.radians(angle) for angle in recipe.turn], "XYZ").to_matrix().to_4x4()


def show(scene: bpy.types.Scene, path: Path, world_from_panorama: Matrix) -> bpy.types.World:
    """Make the panorama the scene's world: the one that this file has of it already, else a new one."""
    found = next((known for known in bpy.data.worlds if path in _files(known)), None)
    if found is None:
        image = bpy.data.images.load(str(path), check_existing=True)
        image.colorspace_settings.name = "Linear Rec.709"
        blend = Path(bpy.data.filepath).parent
        if bpy.data.filepath and path.is_relative_to(blend):
            image.filepath = bpy.path.relpath(str(path))
        found = world.create(f"Panoform {path.stem}", image, world_from_panorama)
    world.assign(scene, found)
    return found


def shown(scene: bpy.types.Scene) -> list[Path]:
    """The files of the panoramas in the scene's world."""
    return _files(scene.world) if scene.world is not None else []


def _files(shown: bpy.types.World) -> list[Path]:
    nodes = shown.node_tree.nodes if shown.node_tree else ()
    images = [node.image for node in nodes if node.bl_idname == "ShaderNodeTexEnvironment" and node.image]
    return [path for path in map(image_file, images) if path is not None]
