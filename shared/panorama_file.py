"""The file of a generated panorama, "name.exr", and its recipe beside it, "name.json"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from . import json_file
from .jobs.generate import Recipe
from .protocol.errors import OutputError

#: Attribute of the image file's header that holds the recipe as JSON (`recipe_json`).
ATTRIBUTE = "panoform"
_HINT = "Choose another file name, or move that file (panoform's --overwrite replaces it)."


def with_seed(path: Path, seed: int, seeds: Sequence[int]) -> Path:
    """Return the path of the panorama of `seed`: `path` itself for a single seed, "name-7.exr" for one of several."""
    return path if len(seeds) == 1 else path.with_stem(f"{path.stem}-{seed}")


def check_path(
    path: Path,
    seeds: Sequence[int],
    sources: Sequence[Path | None] = (),
    overwrite: bool = False,
    has_recipe: Callable[[Path], bool] = lambda _: False,
) -> None:
    """Raise OutputError where writing the panoramas and their recipes would replace files that must be kept.

    `sources` are the input files: they are never replaced. Other files are replaced only if they are generated
    panoramas, identified by the recipe beside them (or inside: `has_recipe`), or if `overwrite` is set.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder.", "Give a file name.")
    for target in (with_seed(path, seed, seeds) for seed in seeds):
        sidecar = target.with_suffix(".json")
        for file in (target, sidecar):
            if file.exists() and any(source and source.exists() and file.samefile(source) for source in sources):
                raise OutputError(
                    f"{file} is a source of the panorama, and would be replaced.", "Choose another file name."
                )
        if overwrite:
            continue
        if sidecar.exists() and not _is_recipe(sidecar):
            raise OutputError(f"{sidecar} exists, but holds no recipe: it would be lost.", _HINT)
        if target.exists() and not sidecar.exists() and not has_recipe(target):
            raise OutputError(f"{target} exists, but has no recipe of a generated panorama: it would be lost.", _HINT)


def recipe_json(recipe: Recipe) -> str:
    """Return the recipe as it is stored in the header of a panorama, and, with a line break, in the file beside it."""
    return msgspec.json.format(msgspec.json.encode(recipe), indent=2).decode()


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in the file beside a panorama. Raise OutputError where that isn't one."""
    try:
        return json_file.read(path, Recipe)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} holds no recipe: {error}.", "Give the .json beside a generated panorama.") from error


def _is_recipe(path: Path) -> bool:
    try:
        read_recipe(path)
    except OutputError:
        return False
    return True
