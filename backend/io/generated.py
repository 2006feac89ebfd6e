"""Write generated panoramas: the picture, and beside it and inside it how to make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ...shared import panorama_file
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs.generate import Recipe
from ...shared.protocol.errors import OutputError
from . import results

#: EXR holds linear light as float32, PNG sRGB in 16 bits.
FORMATS = (".exr", ".png")
#: Attribute of the file's header that holds the recipe as JSON.
ATTRIBUTE = "panoform"


@dataclass(frozen=True)
class Generated:
    """One panorama, and how to make it again."""

    #: (H, W, 3) float32 in the recipe's encoding.
    panorama: np.ndarray
    recipe: Recipe


def check_path(path: Path, seeds: Sequence[int], *sources: Path | None) -> None:
    """Raises OutputError for another format, a folder that can't be written to, and as panorama_file.check_path."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name} is neither an EXR nor a PNG.", "Name it .exr for light, .png for a picture.")
    panorama_file.check_path(path, seeds, sources)
    results.check_writable(path.parent)


def write(path: Path, generated: Generated) -> None:
    """Writes the panorama and its sidecar, "name.json", each whole or not at all. Raises OutputError."""
    pixels, recipe = generated.panorama, generated.recipe
    exr = path.suffix.lower() == ".exr"
    if exr and recipe.encoding == "srgb":
        pixels = linear_from_srgb(pixels)
    if not exr and recipe.encoding == "linear":
        raise OutputError("A PNG can't hold light.", "Name it .exr.")
    text = msgspec.json.format(msgspec.json.encode(recipe), indent=2)
    with results.writing(path.parent) as draft:
        drafts = {draft / path.name: path, draft / f"{path.stem}.json": path.with_suffix(".json")}
        picture, sidecar = drafts
        results.write_image(picture, pixels, "Linear" if exr else "sRGB", {ATTRIBUTE: text.decode()})
        sidecar.write_bytes(text + b"\n")
        for file in drafts:
            results.flush(file)
        for file, place in drafts.items():
            file.replace(place)


def sha256(pixels: np.ndarray) -> str:
    """Of an array's bytes, rows from the top: what a recipe knows a picture by."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
