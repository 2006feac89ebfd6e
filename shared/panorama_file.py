"""The file of a generated panorama, "name.exr", and its recipe beside it, "name.json"."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from . import json_file, overwriting
from .jobs.generate import PanoramaFile, Recipe
from .protocol.errors import OutputError

#: Attribute of the image file's header that holds the recipe as JSON (`recipe_json`).
ATTRIBUTE = "panoform"
#: Settings that recipes of earlier versions lack, with what was done then; requests have other defaults.
_EARLIER = {"measure_light": False}


class _Sidecar(msgspec.Struct, kw_only=True):
    """What the file beside a panorama of any version tells about it."""

    panoform: str
    kind: str
    settings: dict[str, Any]
    #: Of the panorama's file; earlier versions didn't record it.
    file_sha256: str = ""


def with_seed(path: Path, seed: int, seeds: Sequence[int]) -> Path:
    """Return the path of the panorama of `seed`: `path` itself for a single seed, "name-7.exr" for one of several."""
    return path if len(seeds) == 1 else path.with_stem(f"{path.stem}-{seed}")


def check_path(
    path: Path,
    seeds: Sequence[int],
    sources: Sequence[Path | None] = (),
    overwrite: bool = False,
) -> None:
    """Raise OutputError where writing the panoramas and their recipes would replace files that must be kept.

    `sources` are the input files: they are never replaced. Other files are replaced only if they are generated
    panoramas that are as they were written, by the SHA-256 in the record beside them, or if `overwrite` is set.
    """
    for target in (with_seed(path, seed, seeds) for seed in seeds):
        sidecar = target.with_suffix(".json")

        def is_own(file: Path, target: Path = target, sidecar: Path = sidecar) -> bool:
            own = _read_sidecar(sidecar)
            if file != target:
                return own is not None
            return own is not None and overwriting.sha256(file) == own.file_sha256

        overwriting.check((target, sidecar), is_own, sources, overwrite)


def sidecar_json(panorama: PanoramaFile) -> bytes:
    """Return the content of the file beside a panorama: its recipe, and the SHA-256 of the panorama's file."""
    digest = {"file_sha256": hashlib.sha256(panorama.data.tobytes()).hexdigest()}
    recipe = msgspec.to_builtins(panorama.recipe)
    return msgspec.json.format(msgspec.json.encode(recipe | digest), indent=2) + b"\n"


def recipe_json(recipe: Recipe) -> str:
    """Return the recipe as it is stored in the header of a panorama."""
    return msgspec.json.format(msgspec.json.encode(recipe), indent=2).decode()


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in the file beside a panorama. Raise OutputError where that isn't one."""
    try:
        stored = json_file.read(path, dict[str, Any])
        if isinstance(stored.get("settings"), dict):
            stored["settings"] = _EARLIER | stored["settings"]
        return msgspec.convert(stored, Recipe)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise OutputError(f"{path} holds no recipe: {error}.", "Give the .json beside a generated panorama.") from error


def _read_sidecar(path: Path) -> _Sidecar | None:
    try:
        return json_file.read(path, _Sidecar)
    except (OSError, ValueError):
        return None
