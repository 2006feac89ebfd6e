"""The results of perception, and the folder they are kept in.

A result folder holds one file per map (names and formats: shared.maps), the model's input panorama, and `maps.json`.
Either all its files are written, `maps.json` last, or none (io/atomic.py). `maps.json` is also the record of
which files are Panoform's own: no other file is ever replaced unless `overwrite` is set, and a source not even then.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ...shared import result_folder
from ...shared.jobs.perceive import Info
from ...shared.maps import INFO_FILENAME, MAPS, PANORAMA_FILENAME
from . import atomic
from .atomic import check_writable
from .encoding import encode_image


@dataclasses.dataclass(frozen=True)
class Perceived:
    """The result of one job."""

    #: Map name → (H, W, channels) float32, as described in shared.maps.
    maps: dict[str, np.ndarray]
    #: The model's input panorama, (H, W, 3) float32 sRGB in [0, 1].
    panorama: np.ndarray
    info: Info


def check_folder(
    directory: Path, maps: Iterable[str], sources: Sequence[Path | None] = (), overwrite: bool = False
) -> None:
    """Raise OutputError if a result of these maps can't be written to `directory`, or would replace other files.

    `sources` are the files that the maps are made from: they are never replaced or removed. Other files are only if
    they belong to an earlier result, by its `maps.json`, and are as it was written, or if `overwrite` is set.
    """
    result_folder.check_files(directory, maps, sources, overwrite)
    check_writable(directory)


def encode_maps(maps: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Return map name → content of its file. Raise OutputError (`encode_image`)."""
    return {name: encode_image(MAPS[name].filename, maps[name], MAPS[name].colorspace) for name in maps}


def write(
    directory: Path,
    perceived: Perceived,
    encoded: Mapping[str, bytes] | None = None,
    *,
    sources: Sequence[Path | None] = (),
    overwrite: bool = False,
) -> None:
    """Write a result folder; an earlier result in it is replaced, and maps of it that the new one lacks are removed.

    `encoded`: its maps as `encode_maps` returns them, if already encoded.
    Raise OutputError as `check_folder` does, and if the disk is full; the folder is then unchanged.
    """
    maps = encode_maps(perceived.maps) if encoded is None else encoded
    files = {MAPS[name].filename: data for name, data in maps.items()}
    files[PANORAMA_FILENAME] = encode_image(PANORAMA_FILENAME, perceived.panorama, "sRGB", is_panorama=True)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    record = msgspec.to_builtins(perceived.info) | {"files": digests}
    files[INFO_FILENAME] = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    outdated = result_folder.check_files(
        directory, perceived.maps, sources, overwrite
    )  # again: the job and encoding take a while
    with atomic.writing(directory, last=INFO_FILENAME, remove=sorted(outdated)) as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)
