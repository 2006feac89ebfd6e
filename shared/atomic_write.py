"""Files that are written whole or not at all: a draft beside the file, flushed to the disk, then renamed over it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from .protocol.errors import OutputError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomic_write(path: Path, data: bytes, *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write one file; an earlier one is replaced. Arguments and errors as in `atomic_write_all`."""
    atomic_write_all({path: data}, mode=mode, make_folders=make_folders)


def atomic_write_all(contents: Mapping[Path, bytes], *, mode: int | None = None, make_folders: bool = False) -> None:
    """Write several files, of which none is replaced unless all could be written beside their places.

    They are replaced in the order given, each at once; a link is replaced, not followed. `mode`: their permissions,
    less the umask (default: those of any new file). `make_folders`: make folders that are missing.
    Raises OutputError where that can't be done or the disk is full; no draft is left then.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            with _explained(path):
                if make_folders:
                    path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir() and not path.is_symlink():  # found out now, not when others are replaced already
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                # Nobody can foresee the name and put a file or a link of that name there.
                drafts[path] = path.with_name(f".panoform-{secrets.token_hex(8)}.draft")
                _write_draft(drafts[path], data, 0o666 if mode is None else mode)
        for path, draft in drafts.items():
            with _explained(path):
                draft.replace(path)
        for folder in {path.parent for path in contents}:
            _flush_folder(folder)
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):  # the error that kept it from being written is the one to be told
                draft.unlink(missing_ok=True)


def _write_draft(draft: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # each is of one system
    with os.fdopen(os.open(draft, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a power cut, where the system can (Windows and some network drives can't)."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the files are in place already
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise OutputError for what the system refuses."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise OutputError(
                f"The disk is full: {path} could not be written.", "Make room on the disk, or choose another folder."
            ) from error
        raise OutputError(
            f"{path} can't be written: {error.strerror}.", "Choose a folder that you may write to."
        ) from error
