"""Which files of a result folder are Panoform's own, by its record `maps.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from . import json_file, overwriting
from .atomic_write import sweep
from .maps import INFO_FILENAME, MAPS, PANORAMA_FILENAME
from .protocol.errors import OutputError


class _Record(msgspec.Struct, kw_only=True):
    """What `maps.json` of any version tells about the files of a result."""

    panoform: str
    frame: str
    maps: dict[str, str]
    #: Name → SHA-256 of its content; earlier versions didn't record them.
    files: dict[str, str] = {}


def check_files(
    directory: Path, maps: Iterable[str], sources: Sequence[Path | None] = (), overwrite: bool = False
) -> set[str]:
    """Raise OutputError if a result of these maps would replace or remove files that must be kept.

    `sources` are the files that the maps are made from. Other files are Panoform's own if they belong to an earlier
    result, of any version, and are as it was written. What a killed process began to write is finished or undone first.
    Return the names of those that the new result lacks.
    """
    sweep(directory)
    earlier = _earlier(directory)
    written, own = _filenames(maps), _filenames(earlier.maps) if earlier else set()

    def is_own(path: Path) -> bool:
        return path.name in own and (not earlier or path.name not in earlier.files or _is_unchanged(path, earlier))

    overwriting.check((directory / name for name in sorted(written | own)), is_own, sources, overwrite)
    return {name for name in own - written if overwriting.unchanged(directory / name, is_own)}


def is_own(path: Path) -> bool:
    """Return whether a file belongs to a result in its folder, and is as it was written.

    Raise OutputError where the record can't be read.
    """
    earlier = _earlier(path.parent)
    return earlier is not None and path.name in earlier.files and _is_unchanged(path, earlier)


def _is_unchanged(path: Path, record: _Record) -> bool:
    return overwriting.sha256(path) == record.files[path.name]


def _filenames(maps: Iterable[str]) -> set[str]:
    """Return the names of the files of a result with these maps."""
    return {MAPS[name].filename for name in maps if name in MAPS} | {PANORAMA_FILENAME, INFO_FILENAME}


def _earlier(directory: Path) -> _Record | None:
    """Return the record of the result in this folder; None if there is none."""
    try:
        return json_file.read(directory / INFO_FILENAME, _Record)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        raise OutputError(
            f"{directory / INFO_FILENAME} can't be read: {error.strerror}.", "Choose another folder."
        ) from error
