"""Files of generated and edited panoramas: an EXR with the recipe in its header and in a sidecar file.

`panoform generate --out` writes the same files (backend/io/generated.py).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import bpy
from mathutils import Euler, Matrix

from ...shared import panorama_file
from ...shared.atomic_write import atomic_write_all, translate_errors
from ...shared.file_names import is_device
from ...shared.jobs.generate import PanoramaFile, Recipe
from ...shared.protocol.errors import OutputError
from .. import preferences
from ..capture import colour_management
from ..capture.sources import image_file
from ..scene import world
from ..scene.datablocks import all_or_nothing
from . import deleted

#: Most characters of a file name that come from the prompt.
_NAME_LENGTH = 40
#: Characters that some system forbids in file names. (Blender's `clean_name` also replaces ä and é.)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


def folder(scene: bpy.types.Scene) -> Path:
    """Return the folder of the scene's panoramas: one of the add-on while the .blend is not saved yet."""
    path = scene.panoform.generate.folder
    if not path or (path.startswith("//") and not bpy.data.filepath):
        return preferences.get().environment_folder() / "panoramas"
    return Path(bpy.path.abspath(path))


def free_path(folder: Path, prompt: str) -> Path:
    """Return "a stone courtyard.exr" for that prompt, or "a stone courtyard 2.exr" if that exists, and so on.

    Nor is it the name of a panorama that was deleted in this session.
    """
    stem = _FORBIDDEN.sub(" ", prompt[:_NAME_LENGTH]).strip(" .") or "panorama"
    if is_device(stem):
        stem = f"panorama {stem}"
    path, count = folder / f"{stem}.exr", 1
    while os.path.lexists(path) or os.path.lexists(path.with_suffix(".json")) or deleted.was_deleted(path):
        count += 1
        path = folder / f"{stem} {count}.exr"
    return path


def take_free_path(folder: Path, prompt: str) -> Path:
    """Create an empty file at the `free_path`, so that no other Blender takes the name. Raise OutputError."""
    with translate_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = free_path(folder, prompt)
            with contextlib.suppress(FileExistsError):  # another Blender took the name just now
                path.open("xb").close()
                return path


def write_new(folder: Path, prompt: str, panorama: PanoramaFile) -> Path:
    """Write the panorama under a name that is not in use, and return its path.

    Raise OutputError; no file stays then.
    """
    path = take_free_path(folder, prompt)
    try:
        write(path, panorama)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def check_path(path: Path, seeds: Sequence[int], sources: Iterable[bpy.types.Image]) -> None:
    """Raise OutputError for another format, a missing folder, and where panorama_file.check_path does."""
    if path.suffix.lower() != ".exr":
        raise OutputError(f"{path.name} is not an EXR file.", "Use a name that ends in .exr: panoramas are HDR.")
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent}.", "Create it, or choose another folder.")
    panorama_file.check_path(path, seeds, [image_file(image) for image in sources])


def write(path: Path, panorama: PanoramaFile) -> None:
    """Write the panorama and its sidecar file, both or neither; reload its image datablocks. Raise OutputError."""
    sidecar = panorama_file.sidecar_json(panorama)
    atomic_write_all({path: panorama.data.tobytes(), path.with_suffix(".json"): sidecar}, make_folders=True)
    for image in bpy.data.images:
        if image_file(image) == path:
            image.reload()


def turn(world_from_panorama: Matrix) -> tuple[float, float, float]:
    """Return the rotation, 4 × 4, as a recipe stores it."""
    x, y, z = (round(math.degrees(angle), 4) for angle in world_from_panorama.to_euler("XYZ"))
    return x, y, z


def world_from_panorama(recipe: Recipe) -> Matrix:
    """Return the rotation of the recipe's panorama, 4 × 4."""
    return Euler([math.radians(angle) for angle in recipe.turn], "XYZ").to_matrix().to_4x4()


def show(scene: bpy.types.Scene, path: Path, world_from_panorama: Matrix) -> bpy.types.World:
    """Make the panorama the scene's world: reuse a world of this .blend that shows it, or create one."""
    with all_or_nothing(scene):
        shown = next((candidate for candidate in bpy.data.worlds if path in _files(candidate)), None)
        if shown is None:
            image = bpy.data.images.load(str(path), check_existing=True)
            colour_management.assign(image, "Linear Rec.709")
            blend = Path(bpy.data.filepath).parent
            if bpy.data.filepath and path.is_relative_to(blend):
                image.filepath = bpy.path.relpath(str(path))
            shown = world.create(f"Panoform {path.stem}", image, world_from_panorama)
        world.assign(scene, shown)
    return shown


def world_files(scene: bpy.types.Scene) -> list[Path]:
    """Return the files of the environment textures in the scene's world."""
    return _files(scene.world) if scene.world is not None else []


def _files(world: bpy.types.World) -> list[Path]:
    nodes = world.node_tree.nodes if world.node_tree else ()
    images = [node.image for node in nodes if node.bl_idname == "ShaderNodeTexEnvironment" and node.image]
    return [path for path in map(image_file, images) if path is not None]
