"""Encode generated panoramas with their recipe in the header, and write these files with the recipe beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ...shared import panorama_file
from ...shared.atomic_write import atomic_write_all, check_writable
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs.generate import FileFormat, PanoramaFile, Recipe, check_format
from ...shared.panorama_file import ATTRIBUTE, recipe_json
from ...shared.protocol.errors import OutputError
from .encoding import encode_image

FORMATS = tuple(f".{name}" for name in get_args(FileFormat))


@dataclass(frozen=True)
class Generated:
    """One panorama, and the recipe to make it again."""

    #: (H, W, 3) float32 in the recipe's encoding.
    panorama: np.ndarray
    recipe: Recipe


def check_path(path: Path, seeds: Sequence[int], *sources: Path | None, overwrite: bool = False) -> None:
    """Raise OutputError if the format is another, the folder not writable, or as panorama_file.check_path does."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name} is neither an EXR nor a PNG.", "Name it .exr for light, .png for a picture.")
    panorama_file.check_path(path, seeds, sources, overwrite)
    check_writable(path.parent)


def encode(generated: Generated, file_format: FileFormat = "exr") -> PanoramaFile:
    """Encode the panorama: as linear light in an EXR, as sRGB in a PNG. Raise OutputError (`encode_image`)."""
    pixels, recipe = generated.panorama, generated.recipe
    check_format(file_format, linear=recipe.encoding == "linear")
    if file_format == "exr" and recipe.encoding == "srgb":
        pixels = linear_from_srgb(pixels)
    colorspace = "Linear" if file_format == "exr" else "sRGB"
    data = encode_image(
        f"panorama.{file_format}", pixels, colorspace, {ATTRIBUTE: recipe_json(recipe)}, is_panorama=True
    )
    return PanoramaFile(data=np.frombuffer(data, np.uint8), recipe=recipe)


def write(path: Path, panorama: PanoramaFile, *sources: Path | None, overwrite: bool = False) -> None:
    """Write the panorama and its recipe, "name.json", both or neither. Raise OutputError (also `check_path`)."""
    check_path(path, panorama.recipe.settings.seeds[:1], *sources, overwrite=overwrite)
    sidecar = path.with_suffix(".json")
    atomic_write_all({path: panorama.data.tobytes(), sidecar: panorama_file.sidecar_json(panorama)}, make_folders=True)


def sha256(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes, rows from the top, by which a recipe identifies an image."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
