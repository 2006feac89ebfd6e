"""How records of results name weights: hub ids as they are; what is on this computer by name and SHA-256."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import msgspec

from ...shared.engines import EngineSettings
from ...shared.file_errors import display_name
from ...shared.overwriting import sha256
from . import folders

#: Files of a folder of weights whose content its digest depends on.
_SUFFIXES = (".safetensors", ".gguf", ".json")
#: Larger files are read at both ends only, as checkpoints have up to 24 GB.
_WHOLE_BYTES, _END_BYTES = 2**30, 2**20


def name(text: str, settings: EngineSettings) -> str:
    """Return the name of weights, a path or a hub id, in a record."""
    path = _local(text)
    return display_name(text if path is None or settings.record_paths else path.name)


def engine(settings: EngineSettings) -> EngineSettings:
    """Return settings as a record holds them."""
    given = {field: getattr(settings, field) for field in ("model", "adapters")}
    named = {field: text and name(text, settings) for field, text in given.items()}
    return msgspec.structs.replace(settings, **named)


def digests(*texts: str | None) -> dict[str, str]:
    """Return name → SHA-256 of weights, for those that are on this computer, outside the hub's cache.

    Of a file up to 1 GB, it is that of its content. Of a larger one, or a folder, it is that of the names, sizes and
    both ends of the files. Raise OSError.
    """
    paths = [path for text in texts if text and (path := _local(text)) is not None]
    return {display_name(path.name): digest(path) for path in paths if path.exists()}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file or folder of weights (`digests`)."""
    files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    states = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(path, tuple(states))


@functools.lru_cache(maxsize=64)
def _digest(path: Path, states: tuple[tuple[Path, int, int], ...]) -> str:
    if path.is_file() and states[0][1] <= _WHOLE_BYTES:
        return sha256(path)
    found = hashlib.sha256()
    for file, size, _ in states:
        found.update(f"{file.relative_to(path).as_posix()} {size}\n".encode("utf-8", "surrogateescape"))
        with file.open("rb") as opened:
            found.update(opened.read(_END_BYTES))
            opened.seek(max(0, size - _END_BYTES))
            found.update(opened.read())
    return found.hexdigest()


def _local(text: str) -> Path | None:
    """Return the path of weights on this computer; None for a hub id, or for those that are built in."""
    path = folders.expanded(text)
    return path if path.is_absolute() or path.exists() or text.startswith((".", "~")) or "\\" in text else None
