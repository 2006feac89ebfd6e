"""The file of a generated panorama, "name.exr", and its recipe beside it, "name.json"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import json_file
from .jobs.generate import Recipe
from .protocol.errors import OutputError


def with_seed(path: Path, seed: int, seeds: Sequence[int]) -> Path:
    """Where the panorama of `seed` goes, one of several or the only one: `path` itself, or "name-7.exr"."""
    return path if len(seeds) == 1 else path.with_stem(f"{path.stem}-{seed}")


def check_path(path: Path, seeds: Sequence[int], sources: Sequence[Path | None]) -> None:
    """Raises OutputError where one of the `sources`, which the panoramas are to be made of, would be lost, or a file
    that is no recipe."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder.", "Name a file.")
    for place in (with_seed(path, seed, seeds) for seed in seeds):
        for source in sources:
            if source and source.exists() and place.exists() and place.samefile(source):
                raise OutputError(f"{place} is what it is to be made of, and would be lost.", "Name another file.")
        sidecar = place.with_suffix(".json")
        if sidecar.exists() and not _is_recipe(sidecar):
            raise OutputError(f"{sidecar} is there and no recipe: it would be lost.", f"Name {path.name} otherwise.")


def read_recipe(path: Path) -> Recipe:
    """The recipe in a sidecar. Raises OutputError where that isn't one."""
    try:
        return json_file.read(path, Recipe)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} holds no recipe: {error}.", "Name the .json beside a generated panorama.") from error


def _is_recipe(path: Path) -> bool:
    try:
        read_recipe(path)
    except OutputError:
        return False
    return True
