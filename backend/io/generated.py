"""Write generated panoramas, and their recipe beside and inside the image file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import OpenImageIO as oiio

from ...shared import panorama_file
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs.generate import Recipe
from ...shared.protocol.errors import OutputError
from . import atomic, results

#: EXR holds linear light as float32, PNG sRGB in 16 bits.
FORMATS = (".exr", ".png")
#: Attribute of the file's header that holds the recipe as JSON.
ATTRIBUTE = "panoform"


@dataclass(frozen=True)
class Generated:
    """One panorama, and the recipe to make it again."""

    #: (H, W, 3) float32 in the recipe's encoding.
    panorama: np.ndarray
    recipe: Recipe


def check_path(path: Path, seeds: Sequence[int], *sources: Path | None, overwrite: bool = False) -> None:
    """Raise OutputError for another format, a folder that can't be written to, and as panorama_file.check_path."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name} is neither an EXR nor a PNG.", "Name it .exr for light, .png for a picture.")
    panorama_file.check_path(path, seeds, sources, overwrite, _has_recipe)
    atomic.check_writable(path.parent)


def write(path: Path, generated: Generated, *sources: Path | None, overwrite: bool = False) -> None:
    """Write the panorama and its recipe, "name.json", both or neither. Raises OutputError, also as `check_path`."""
    pixels, recipe = generated.panorama, generated.recipe
    exr = path.suffix.lower() == ".exr"
    if exr and recipe.encoding == "srgb":
        pixels = linear_from_srgb(pixels)
    if not exr and recipe.encoding == "linear":
        raise OutputError("A PNG can't hold light.", "Name it .exr.")
    check_path(path, recipe.settings.seeds[:1], *sources, overwrite=overwrite)
    text = msgspec.json.format(msgspec.json.encode(recipe), indent=2)
    sidecar = path.with_suffix(".json").name
    with atomic.writing(path.parent, last=sidecar) as draft:
        results.write_image(draft / path.name, pixels, "Linear" if exr else "sRGB", {ATTRIBUTE: text.decode()})
        (draft / sidecar).write_bytes(text + b"\n")


def _has_recipe(path: Path) -> bool:
    """Return whether an image file has a recipe in its header."""
    image = oiio.ImageInput.open(str(path))
    if image is None:
        oiio.geterror()  # clears it
        return False
    text = image.spec().getattribute(ATTRIBUTE)
    image.close()
    try:
        msgspec.json.decode(text or "", type=Recipe)
    except msgspec.MsgspecError:
        return False
    return True


def sha256(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes, rows from the top, by which a recipe identifies an image."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
