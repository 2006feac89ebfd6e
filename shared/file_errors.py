"""Open files of unknown origin: one place that translates what a system raises for a name or a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .atomic_write import DISK_FULL, MAKE_ROOM
from .plain_text import plain
from .protocol.errors import InputError, OutputError, PanoformError, memory_error

_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP)
#: Access, devices that fail, and what there is too much of: open files, processes, memory.
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM,
)  # fmt: skip
_SHOWN = 200


def display_name(name: str | os.PathLike[str]) -> str:
    """Return a file's name as text that can be shown and stored: what isn't UTF-8 in it becomes �, control characters
    and those that reverse text too."""
    return plain(os.fsencode(name).decode("utf-8", "replace"))


def is_file(path: Path) -> bool:
    """Return whether there is a file; False for names that the system doesn't allow (too long, with a zero)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def system_error(error: BaseException) -> PanoformError | None:
    """Return the error to tell where the system refuses: a file's name, memory, room on the disk, access, a resource.

    None for any other error.
    """
    if isinstance(error, MemoryError):
        return memory_error()
    if isinstance(error, OSError):
        name = display_name(str(error.filename or ""))
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        if error.errno in DISK_FULL:
            return OutputError("The disk is full" + (f": {shown} could not be written." if shown else "."), MAKE_ROOM)
        if error.errno in _NAME_ERRORS:
            return InputError(
                f"The system doesn't allow the name {shown} ({error.strerror}).", "Use a shorter, plain name."
            )
        if error.errno in _REFUSED:
            return PanoformError(
                f"The system refused{f' {shown}' if shown else ''}: {error.strerror}.",
                "Check permissions, the disk, and how many files and programs are open.",
            )
    if isinstance(error, UnicodeEncodeError):
        return InputError("A file's name is not UTF-8.", "Rename the file.")
    if isinstance(error, ValueError) and "null byte" in str(error):
        return InputError("A file's name has a zero character.", "Use another name.")
    return None


@contextmanager
def opened(path: Path, failure: type[InputError] = InputError) -> Iterator[BinaryIO]:
    """Open a file for reading. Raise `failure` where there is none or it can't be read, in the block too."""
    if not is_file(path):
        raise failure(f"There is no file {display_name(path)}.", "Check the path.")
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise failure(
            f"{display_name(path.name)} can't be read: {error.strerror or error}.", "Check the file."
        ) from error
