"""The rule for files that exist where a result is written: none is replaced that isn't Panoform's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .atomic_write import sweep
from .protocol.errors import OutputError

_HINT = (
    "Another program made them, or they were changed since. Choose another name or folder, move them away, or allow "
    "overwriting (--overwrite)."
)


def check(
    targets: Iterable[Path],
    is_own: Callable[[Path], bool],
    sources: Iterable[Path | None] = (),
    overwrite: bool = False,
) -> None:
    """Raise OutputError where the `targets` would replace files that must be kept, or no file can have their names.

    To be kept are folders, the `sources` of the result (files, also under other names, as links; of a folder all its
    files), and, unless `overwrite` is set, files that are not Panoform's own: `is_own` tells by their record. It is
    called for those that exist only, after what a killed process began to write in their folders, records included,
    was finished or undone.
    """
    targets = [*targets]
    for path in targets:
        _check_name(path)
    for folder in dict.fromkeys(path.parent for path in targets):
        sweep(folder)
    existing = [path for path in targets if os.path.lexists(path)]
    for path in existing:
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path} is a folder.", "Choose another name or folder.")
        if any(source is not None and _same(path, source) for source in sources):
            raise OutputError(f"{path} is a source, and the result would replace it.", "Choose another name or folder.")
    foreign = [] if overwrite else [path for path in existing if not unchanged(path, is_own)]
    if foreign:
        names = ", ".join(path.name for path in foreign)
        raise OutputError(f"{foreign[0].parent} has files that are not a result of Panoform: {names}.", _HINT)


def _check_name(path: Path) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except (OSError, ValueError) as error:  # too long, with a zero
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{path} can't be written: {reason}.", "Choose a shorter, plain name.") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, by which a record identifies it. Raise OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(path: Path, source: Path) -> bool:
    """Return whether a file that exists is the source, or in it."""
    try:
        if source.is_dir():
            return source.resolve() in path.resolve().parents
        return os.path.samestat(path.lstat(), source.lstat()) or path.samefile(source)
    # One of them is missing, a link to nothing, or has a name that no file can have: they are not the same file.
    except (OSError, ValueError):
        return False


def unchanged(path: Path, is_own: Callable[[Path], bool]) -> bool:
    """Return whether a file is Panoform's own. A link isn't, whatever it leads to: Panoform makes none."""
    if not path.is_file() or path.is_symlink():
        return False
    try:
        return is_own(path)
    except OSError as error:
        raise OutputError(f"{path} can't be read: {error.strerror}.", "Choose another name or folder.") from error
