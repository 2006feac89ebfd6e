"""JSON from folders that may hold anything."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

Kind = TypeVar("Kind")


def read(path: Path, kind: type[Kind]) -> Kind:
    """What `path` holds, as a `kind`. Raises OSError, and ValueError for anything else than that as JSON: another
    format or encoding, another structure, one that is nested too deeply."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
