"""Write files atomically: to a temporary file beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from .protocol.errors import OutputError

MAKE_ROOM = "Make room on the disk, or choose another folder."
#: Errors of a full disk, a quota, a file size limit.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Errors of file systems that can't flush a folder.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def atomic_write(path: Path, data: bytes, *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write one file, replacing an existing one. Arguments and errors as in `atomic_write_all`."""
    atomic_write_all({path: data}, mode=mode, make_folders=make_folders)


def atomic_write_all(contents: Mapping[Path, bytes], *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write several files; none is replaced unless all temporary files could be written.

    They are replaced in the order given, each atomically; a link is replaced, not followed. `mode`: permissions before
    the umask (default: those of any new file). `make_folders`: create missing folders.
    Raise OutputError if a file can't be written or the disk is full; no temporary file is left then.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            with translate_errors(path):
                if make_folders:
                    path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir() and not path.is_symlink():  # checked before any other file is replaced
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                # A random name: nobody can place a file or link there in advance.
                drafts[path] = path.with_name(f".panoform-{secrets.token_hex(8)}.draft")
                _write_draft(drafts[path], data, 0o666 if mode is None else mode)
        for path, draft in drafts.items():
            with translate_errors(path):
                draft.replace(path)
        for folder in {path.parent for path in contents}:
            with contextlib.suppress(OSError):  # the files are in place already
                flush_folder(folder)
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):  # report the error of the write, not of the cleanup
                draft.unlink(missing_ok=True)


def _write_draft(draft: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # each exists on one system only
    with os.fdopen(os.open(draft, flags, mode), "wb") as file:
        file.write(data)
        flush_file(file)


def flush_file(file: BinaryIO) -> None:
    """Flush an open file's content to disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut. No-op where that isn't supported."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(handle)


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the OutputError for an OSError raised while `path` was written."""
    if error.errno in _DISK_FULL:
        return OutputError(f"The disk is full: {path} could not be written.", MAKE_ROOM)
    return OutputError(f"{path} can't be written: {error.strerror or error}.", "Choose a folder that you may write to.")


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate an OSError in the block, which writes `path`, to OutputError."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
