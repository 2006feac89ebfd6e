"""Read JSON of unknown origin: the one place that translates what its decoder raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind")

#: Larger files are refused unread: records and configs have kilobytes, lists of tensors a megabyte.
MAX_BYTES = 2**26
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read(path: Path, kind: type[Kind]) -> Kind:
    """Decode the JSON file `path` as a `kind`.

    Raise OSError, and ValueError for any other content: another format, encoding or structure, or nested too deeply.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it is {size:,} bytes long")
    return decode(path.read_bytes(), kind)


def decode(content: bytes | str, kind: Any) -> Any:
    """Decode JSON as a `kind`. Raise ValueError for any other content (see `read`)."""
    if isinstance(content, bytes):
        content = content.removeprefix(_BYTE_ORDER_MARK)  # as some editors write
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise ValueError(str(error)) from error
