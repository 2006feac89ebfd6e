"""Write generated panoramas: the picture, and beside it and inside it how to make it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..shared.colour import linear_from_srgb
from ..shared.errors import OutputError
from ..shared.generation import with_seed
from ..shared.messages import Recipe
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


def check_path(path: Path, *sources: Path | None) -> None:
    """Raises OutputError for another format, a folder that can't be written to, another's file as its sidecar, or where
    one of the `sources`, which it is to be made of, would be lost."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path.name} is neither an EXR nor a PNG.", "Name it .exr for light, .png for a picture.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder.", "Name a file.")
    for source in sources:
        if source and source.exists() and path.exists() and path.samefile(source):
            raise OutputError(f"{path} is what it is to be made of, and would be lost.", "Name another file.")
    sidecar = path.with_suffix(".json")
    if sidecar.exists() and not _is_recipe(sidecar):
        raise OutputError(f"{sidecar} is there and no recipe: it would be lost.", f"Name {path.name} otherwise.")
    results.check_writable(path.parent)


def paths(path: Path, seeds: tuple[int, ...]) -> list[Path]:
    """Where the panoramas of these seeds go: `path` itself, or "name-7.exr" where there are several."""
    return [with_seed(path, seed, seeds) for seed in seeds]


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


def read_recipe(path: Path) -> Recipe:
    """The recipe in a sidecar. Raises OutputError where that isn't one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.MsgspecError) as error:
        raise OutputError(f"{path} holds no recipe: {error}.", "Name the .json beside a generated panorama.") from error


def _is_recipe(path: Path) -> bool:
    try:
        read_recipe(path)
    except OutputError:
        return False
    return True


def sha256(pixels: np.ndarray) -> str:
    """Of an array's bytes, rows from the top: what a recipe knows a picture by."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
