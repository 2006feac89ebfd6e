"""Read JSON files of unknown origin."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

Kind = TypeVar("Kind")


def read(path: Path, kind: type[Kind]) -> Kind:
    """Decode the JSON file `path` as a `kind`.

    Raise OSError, and ValueError for any other content: another format, encoding or structure, or nested too deeply.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
