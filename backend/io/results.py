"""The results of perception, and the folder they are kept in.

A result folder holds one file a map (names and formats: shared.maps), the panorama as the model saw it, `maps.json`.
Its files appear together, `maps.json` last, or none of them does (io/atomic.py). `maps.json` is also the record of
which files are Panoform's own: no other file is ever replaced unless `overwrite` is set, and a source not even then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ...shared import json_file
from ...shared.jobs.perceive import Info
from ...shared.maps import INFO_FILENAME, MAPS, PANORAMA_FILENAME
from ...shared.protocol.errors import OutputError
from . import atomic
from .atomic import check_writable
from .encoding import encode_image


@dataclasses.dataclass(frozen=True)
class Perceived:
    """The result of one job."""

    #: Map name → (H, W, channels) float32, as described in shared.maps.
    maps: dict[str, np.ndarray]
    #: The panorama as the model saw it, (H, W, 3) float32 sRGB in [0, 1].
    panorama: np.ndarray
    info: Info


def check_folder(
    directory: Path, maps: Iterable[str], sources: Sequence[Path | None] = (), overwrite: bool = False
) -> None:
    """Raise OutputError where a result of these maps can't be written to `directory`, or something would be lost.

    `sources` are the files that the maps are made from: they are never replaced or removed. Other files are only where
    they belong to an earlier result, by its `maps.json`, or where `overwrite` is set.
    """
    earlier = _earlier(directory)
    written = _filenames(maps)
    own = _filenames(earlier.maps) if earlier else set()
    # What is lost is what the new result replaces, and what it removes of an earlier one.
    lost = sorted(name for name in written | own if (directory / name).exists())
    for place in (directory / name for name in lost):
        if any(source and source.exists() and place.samefile(source) for source in sources):
            raise OutputError(
                f"{place} is the source, and the result would replace it.", "Choose another folder for the maps."
            )
    foreign = [name for name in lost if name not in own]
    if foreign and not overwrite:
        raise OutputError(
            f"{directory} has files that are not a result of Panoform: {', '.join(foreign)}.",
            "Choose another folder, move them away, or allow overwriting (--overwrite).",
        )
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

    `encoded`: its maps as `encode_maps` returns them, where that is done already.
    Raises OutputError as `check_folder` does, and where the disk is full; the folder is then as it was.
    """
    check_folder(directory, perceived.maps, sources, overwrite)
    maps = encode_maps(perceived.maps) if encoded is None else encoded
    files = {MAPS[name].filename: data for name, data in maps.items()}
    files[PANORAMA_FILENAME] = encode_image(PANORAMA_FILENAME, perceived.panorama, "sRGB")
    files[INFO_FILENAME] = msgspec.json.format(msgspec.json.encode(perceived.info), indent=2) + b"\n"
    earlier = _earlier(directory)
    outdated = (_filenames(earlier.maps) if earlier else set()) - files.keys()
    with atomic.writing(directory, last=INFO_FILENAME, remove=sorted(outdated)) as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)


def _filenames(maps: Iterable[str]) -> set[str]:
    """Return the names of the files of a result with these maps."""
    return {MAPS[name].filename for name in maps if name in MAPS} | {PANORAMA_FILENAME, INFO_FILENAME}


def _earlier(directory: Path) -> Info | None:
    """Return the record of the result in this folder; None where there is none."""
    try:
        return json_file.read(directory / INFO_FILENAME, Info)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        raise OutputError(
            f"{directory / INFO_FILENAME} can't be read: {error.strerror}.", "Choose another folder."
        ) from error
