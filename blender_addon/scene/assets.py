"""Environment → asset of Blender's Asset Browser, with a preview and a catalogue."""

from __future__ import annotations

import os
from pathlib import Path

import bpy
import numpy as np

from ...shared.atomic_write import atomic_write, translate_errors
from ..capture import pixels, sources
from . import environment

#: The same in every file, so that the environments of all files are in one catalogue.
CATALOGUE_ID = "5d3ad8f4-3a3c-4ac7-9e0b-0b7f9c1d5e26"
CATALOGUE = "Panoform/Environments"
CATALOGUE_FILE = "blender_assets.cats.txt"
_HEADER = """# This is an Asset Catalog Definition file for Blender.
#
# Empty lines and lines starting with `#` will be ignored.
# The first non-ignored line should be the version indicator.
# Other lines are of the format "UUID:catalog/path/for/assets:simple catalog name"

VERSION 1

"""
_TAGS = ("Panoform", "Environment", "360°")
_PREVIEW_PX = 256


def mark(body: bpy.types.Object, scene: bpy.types.Scene) -> list[bpy.types.ID]:
    """Mark the collection that `body` was built in, and Panoform's world of `scene`, and return what was marked.

    The preview is the middle of the world's panorama, 90° wide. Raise SceneError if the world has no HDRI,
    PanoramaError.
    """
    collection = environment.collection(body, scene)
    marked: list[bpy.types.ID] = [collection if collection is not None else body]
    preview = _preview(pixels.display(pixels.read(sources.world_image(scene)[0])))
    if scene.world.name.startswith("Panoform "):
        marked.append(scene.world)
    for block in marked:
        block.asset_mark()
        data = block.asset_data
        data.catalog_id = CATALOGUE_ID
        data.description = f"Environment from a 360° panorama, built by Panoform from {body.name!r}"
        for tag in _TAGS:
            data.tags.new(tag, skip_if_exists=True)
        picture = block.preview_ensure()
        picture.image_size = preview.shape[1::-1]
        picture.image_pixels_float.foreach_set(preview.ravel())
    return marked


def write_catalogue(folder: Path) -> Path | None:
    """Add the catalogue to the definition file in a folder; return its path, None if it is there already.

    All other lines stay as they are; where it is a link, also of a library that several share, the file that it leads
    to is written. Raise OutputError.
    """
    path = folder / CATALOGUE_FILE
    target = Path(os.path.realpath(path))
    with translate_errors(target):
        # Lines of another encoding stay as they are.
        text = target.read_bytes().decode("utf-8", "surrogateescape") if target.exists() else _HEADER
    if any(line.startswith(f"{CATALOGUE_ID}:") for line in text.splitlines()):
        return None
    if not text.endswith("\n"):
        text += "\n"
    atomic_write(
        target, f"{text}{CATALOGUE_ID}:{CATALOGUE}:{CATALOGUE.replace('/', '-')}\n".encode("utf-8", "surrogateescape")
    )
    return path


def _preview(panorama: np.ndarray) -> np.ndarray:
    """Return the middle of an sRGB panorama (H, 2·H, 3) as RGBA, (256, 256, 4) float32, bottom row first."""
    height, width, _ = panorama.shape
    step = (np.arange(_PREVIEW_PX) + 0.5) / _PREVIEW_PX
    rows = ((0.25 + 0.5 * step) * height).astype(int)
    columns = ((0.375 + 0.25 * step) * width).astype(int)
    rgba = np.ones((_PREVIEW_PX, _PREVIEW_PX, 4), np.float32)
    rgba[..., :3] = panorama[rows[::-1, None], columns]
    return rgba
