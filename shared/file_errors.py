"""Open files of unknown origin: one place that translates what a system raises for a name or a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .protocol.errors import InputError


def display_name(name: str | os.PathLike[str]) -> str:
    """Return a file's name as text that can be shown and stored: what isn't UTF-8 in it becomes �, control characters
    too."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "�" for character in text)


def is_file(path: Path) -> bool:
    """Return whether there is a file; False for names that the system doesn't allow (too long, with a zero)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


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
