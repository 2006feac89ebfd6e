"""Write files atomically: to drafts within the target folder, which are flushed to disk and then moved into place.

One file is replaced in one step. Several are written all or none: those that they replace are moved aside first, and
put back if a move fails. In the folder there is meanwhile, under a fresh random name that nobody can place in advance,

    .panoform-0123456789abcdef          the drafts
    .panoform-0123456789abcdef.lock     locked as long as the process that writes lives
    .panoform-0123456789abcdef.old      what is replaced, while several files are moved
    .panoform-0123456789abcdef.moving   the drafts, once all that they replace is in .old

so that the next write to the folder can finish or undo what a killed process began, and remove its drafts. Links are
replaced, never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from .file_lock import one_at_a_time, try_lock
from .protocol.errors import OutputError

MAKE_ROOM = "Make room on the disk, or choose another folder."
_CHOOSE = "Choose a folder that you may write to."
_DRAFT = re.compile(r"(\.panoform-[0-9a-f]{16})\.lock")
#: Errors of a full disk, a quota, a file size limit.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: How long another process may take to move its files into the same folder.
_PATIENCE_S = 60
#: Errors of file systems that can't flush a folder.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def atomic_write(path: Path, data: bytes, *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write one file, replacing an existing one. Arguments and errors as in `atomic_write_all`."""
    atomic_write_all({path: data}, mode=mode, make_folders=make_folders)


def atomic_write_all(contents: Mapping[Path, bytes], *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write several files, all or none of each folder, the last one last; none if one can't be created.

    `mode`: permissions before the umask (default: those of any new file). `make_folders`: create missing folders.
    Raise OutputError if a file can't be written or the disk is full; no draft is left then.
    """
    last = [*contents][-1]
    for path in contents:
        if not make_folders and not path.parent.is_dir():
            raise output_error(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    with contextlib.ExitStack() as stack:
        # Folders are published in the reverse order.
        folders = dict.fromkeys([last.parent, *(path.parent for path in contents)])
        drafts_of = {folder: stack.enter_context(writing(folder, last=last.name)) for folder in folders}
        for path, data in contents.items():
            with translate_errors(path):
                _create(drafts_of[path.parent] / path.name, data, 0o666 if mode is None else mode)


@contextlib.contextmanager
def writing(directory: Path, *, last: str = "", remove: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a draft folder, whose files are moved into `directory` when the block ends without an error.

    Those in folders of the draft are moved into the folders of that name. `last` names the file that is moved last (and
    the first to be removed if it replaces one); `remove`, files of `directory` to delete in the same step. If anything
    fails, `directory` is restored. Raise OutputError if a file can't be written or the disk is full.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    done = False
    try:
        with translate_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            with drafts(directory) as draft:
                yield draft
                for entry in (*draft.rglob("*"), draft):
                    flush_folder(entry) if entry.is_dir() else _flush(entry)
                # Else, of two that replace several files at once, some of each would stay.
                with one_at_a_time(directory, _PATIENCE_S):
                    _publish(draft, directory, last, remove)
            for folder in made:
                flush_folder(folder.parent)
        done = True
    finally:
        if not done:
            _remove_empty(made)


def check_writable(directory: Path) -> None:
    """Raise OutputError if `directory` is not writable, before time is spent on a result."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    with writing(directory):
        pass
    _remove_empty(made)


@contextlib.contextmanager
def drafts(directory: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `directory` (default: the system's folder for temporary files), removed at the end.

    Only its owner can read it. What killed processes left there is removed first. Raise OSError.

    Files that `writing` has moved aside, and could not move back as it was interrupted, stay for the next sweep.
    """
    directory = directory or Path(tempfile.gettempdir())
    _sweep(directory)
    draft, lock = _new_draft(directory)
    try:
        yield draft
    finally:
        old, moving = _moved(draft)
        done = not (old.is_dir() and _files(old))
        if done:
            for folder in (draft, old, moving):
                shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        if done:
            with contextlib.suppress(OSError):  # the next write removes it
                _lock_path(draft).unlink(missing_ok=True)


def _new_draft(directory: Path) -> tuple[Path, int | None]:
    """Create a draft folder, and its locked file (None where the file system has no locks)."""
    while True:
        draft = directory / f".panoform-{secrets.token_hex(8)}"
        path = _lock_path(draft)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            # Another process may have taken it for that of a killed one, before it was locked.
            if not try_lock(lock) or not path.exists() or not os.path.samestat(os.fstat(lock), path.stat()):
                os.close(lock)
                continue
        except OSError:
            os.close(lock)
            path.unlink()
            draft.mkdir(0o700)
            return draft, None
        try:
            draft.mkdir(0o700)
        except OSError:
            os.close(lock)
            path.unlink()
            raise
        return draft, lock


def _lock_path(draft: Path) -> Path:
    return draft.with_name(f"{draft.name}.lock")


def _moved(draft: Path) -> tuple[Path, Path]:
    """Return the folders of what is replaced, and of the drafts while they are moved."""
    return draft.with_name(f"{draft.name}.old"), draft.with_name(f"{draft.name}.moving")


def sweep(directory: Path) -> None:
    """Finish or undo what killed processes began in `directory`, as the next write does, where it exists.

    Call it before files there are judged: those of a killed write are there in part. Raise OutputError.
    """
    with translate_errors(directory), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _sweep(directory)


def _sweep(directory: Path) -> None:
    """Finish or undo the moves of processes that were killed while they wrote to `directory`; remove their drafts."""
    try:
        with os.scandir(directory) as entries:  # a folder of temporary files may hold thousands
            matches = [match for entry in entries if (match := _DRAFT.fullmatch(entry.name))]
    except PermissionError:  # a folder that one may write to, but not list, hides them
        return
    for match in matches:
        entry = directory / match[0]
        with contextlib.suppress(OSError):  # another process, or another user, has it: what is left there harms nobody
            flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            lock = os.open(entry, flags)
            try:
                state = os.fstat(lock)
                own = os.name == "nt" or state.st_uid == os.geteuid()
                if not (own and stat.S_ISREG(state.st_mode) and try_lock(lock)):
                    continue
                _settle(directory / match[1], directory)
            finally:
                os.close(lock)
            entry.unlink()


def _settle(draft: Path, directory: Path) -> None:
    """Move what a killed process has not moved to its place, where that is free, and delete the rest.

    These are the new files if all that they replace was moved aside, else what was.
    """
    old, moving = _moved(draft)
    if moving.is_dir() and not moving.is_symlink():
        _move_free(moving, directory)
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir() and not old.is_symlink():
        _move_free(old, directory)
        _remove_empty([*(path for path in sorted(old.rglob("*"), reverse=True)), old])  # a file in it has no free place
    for folder in (draft, moving):
        shutil.rmtree(folder, ignore_errors=True)


def _move_free(source: Path, directory: Path) -> None:
    for name in _files(source):
        if not os.path.lexists(directory / name) and _linked_folder(directory, name) is None:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(directory / name)


def _linked_folder(directory: Path, name: Path) -> Path | None:
    """Return the link that would be followed, in `directory`, to reach the file `name` there."""
    return next(
        (directory / folder for folder in name.parents if folder.name and (directory / folder).is_symlink()), None
    )


def _files(folder: Path) -> list[Path]:
    """Return the files and links in a folder and its folders, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _publish(draft: Path, directory: Path, last: str, remove: Iterable[str]) -> None:
    """Move the files of `draft`, which are flushed to disk, into `directory`, all or none."""
    names = sorted(_files(draft), key=lambda name: (name == Path(last), name))
    for place in (directory / name for name in names):
        if place.is_dir() and not place.is_symlink():
            raise OutputError(f"{place} can't be written: {place.name} is a folder.", _CHOOSE)
    for link in filter(None, (_linked_folder(directory, name) for name in names)):
        raise OutputError(f"{link} is a link to another place, into which nothing is written.", _CHOOSE)
    replaced = [name for name in reversed(names) if os.path.lexists(directory / name)]
    replaced += [Path(name) for name in remove if os.path.lexists(directory / name)]
    made = {folder for name in names for folder in (directory / name).parents if not folder.exists()}
    for folder in sorted(made):
        folder.mkdir(exist_ok=True)
    try:
        if len(names) == 1 and replaced in ([], names):
            (draft / names[0]).replace(directory / names[0])
        elif names or replaced:
            _move_all(draft, directory, names, replaced)
    except BaseException:
        _remove_empty(sorted(made, reverse=True))
        raise
    for folder in {directory, *made, *((directory / name).parent for name in names)}:
        flush_folder(folder)
    shutil.rmtree(_moved(draft)[0], ignore_errors=True)  # else the next sweep removes it


def _move_all(draft: Path, directory: Path, names: Iterable[Path], replaced: Iterable[Path]) -> None:
    """Move files aside, and the drafts in; if one fails, move all back and raise its OSError.

    Raise OutputError if files stay aside.
    """
    old, moving = _moved(draft)
    begun: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        begun.append((source, target))  # before, as an interruption may come right after the move
        source.replace(target)

    try:
        for name in replaced:
            move(directory / name, old / name)
        move(draft, moving)
        for name in names:
            move(moving / name, directory / name)
    except BaseException as error:
        # In this order a sweep after a further interruption finishes or undoes the whole: see `_settle`.
        for source, target in reversed(begun):
            if os.path.lexists(target) and not os.path.lexists(source):
                with contextlib.suppress(OSError):  # told below
                    target.replace(source)
        left = _files(old) if old.is_dir() else []
        if not left:
            raise
        kept = old.with_name(f"{old.name}-kept")
        old.rename(kept)  # not to be removed
        names_left = ", ".join(map(str, left))
        raise OutputError(
            f"Not written; {names_left} could not be moved back to {directory}.", f"The previous files are in {kept}."
        ) from error


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _create(file: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # each exists on one system only
    with os.fdopen(os.open(file, flags, mode), "wb") as opened:
        opened.write(data)


def _flush(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("r+b") as handle:
        flush_file(handle)


def flush_file(file: BinaryIO) -> None:
    """Flush an open file's content to disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut.

    No-op where that isn't supported, and for folders that one may write to, but not list.
    """
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(handle)


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the OutputError for an OSError raised while `path` was written."""
    if error.errno in DISK_FULL:
        return OutputError(f"The disk is full: {path} could not be written.", MAKE_ROOM)
    return OutputError(f"{path} can't be written: {error.strerror or error}.", _CHOOSE)


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate an OSError in the block, which writes `path`, to OutputError."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
