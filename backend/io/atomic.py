"""Write files atomically.

They are written to a draft folder within the target folder first, and flushed to disk. Then the drafts are moved
into place: one by an atomic replace, several all or none, because the files that they replace are moved aside first and
put back if a move fails.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...shared.atomic_write import flush_file, flush_folder, translate_errors
from ...shared.protocol.errors import OutputError

_PREFIX = ".panoform-"


@contextmanager
def writing(directory: Path, *, last: str = "", remove: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a draft folder, whose files and folders are moved into `directory` when the block ends without an error.

    `last` names the entry that is moved last (and the first to be removed if it replaces one); `remove`, entries of
    `directory` to delete in the same step. If anything fails, `directory` is restored.
    Raise OutputError if a file can't be written or the disk is full.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    draft: Path | None = None
    done = False
    try:
        with translate_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
            yield draft
            _publish(draft, directory, last, remove)
            for folder in made:
                flush_folder(folder.parent)
        done = True
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if not done:
            _remove_empty(made)


def check_writable(directory: Path) -> None:
    """Raise OutputError if `directory` is not writable, before time is spent on a result."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    with writing(directory):
        pass
    _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _publish(draft: Path, directory: Path, last: str, remove: Iterable[str]) -> None:
    """Move the entries of `draft` into `directory`, all or none."""
    for entry in (*draft.rglob("*"), draft):
        flush_folder(entry) if entry.is_dir() else _flush(entry)
    entries = sorted(draft.iterdir(), key=lambda entry: (entry.name == last, entry.name))
    moves = {entry: directory / entry.name for entry in entries}
    for entry, place in moves.items():
        if place.is_dir() and not entry.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{place.name} is a folder", str(place))
    replaced = [place for place in reversed(moves.values()) if os.path.lexists(place)]
    replaced += [directory / name for name in remove if os.path.lexists(directory / name)]
    if len(moves) == 1 and replaced == list(moves.values()) and entries[0].is_file():
        entries[0].replace(replaced[0])
    elif replaced:
        aside = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
        _move_all({place: aside / place.name for place in replaced} | moves, aside)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        _move_all(moves, None)
    flush_folder(directory)


def _move_all(moves: dict[Path, Path], aside: Path | None) -> None:
    """Move each to its target; if one fails, move all back and raise its OSError.

    Raise OutputError if files stay in the folder `aside`.
    """
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves.items():
            source.replace(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            try:
                target.replace(source)
            except OSError as error:
                raise OutputError(
                    f"{source} could not be moved back: {error.strerror}.",
                    f"The previous files are in {aside}." if aside else "",
                ) from error
        if aside:
            aside.rmdir()
        raise


def _flush(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("r+b") as handle:
        flush_file(handle)
