"""TIFF directories, and the EXIF data in them (TIFF 6.0; EXIF 2.32, CIPA DC-008)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection

ORIENTATION, EXIF_IFD, INTEROP_IFD = 0x0112, 0x8769, 0xA005
MAKE, MODEL = 0x010F, 0x0110
_INTEROP_INDEX = 1
#: The tags that `Camera` says something of.
_CAMERA = (ORIENTATION, MAKE, MODEL, EXIF_IFD)
#: TIFF types: code → struct format and bytes.
_TYPES = {1: ("B", 1), 2: ("s", 1), 3: ("H", 2), 4: ("I", 4), 5: ("II", 8), 7: ("B", 1), 9: ("i", 4), 10: ("ii", 8)}
_TYPES |= {12: ("d", 8), 16: ("Q", 8)}
#: More values than this of one tag are never needed (ICC profiles and XMP are read as bytes).
_MANY, _MANY_TAGS = 16, 4096

Tag = tuple[float, ...] | str | bytes


def directory(
    data: bytes | mmap.mmap,
    order: str,
    at: int,
    wanted: Collection[int],
    *,
    big: bool = False,
    is_exif: bool = False,
    many: int = _MANY,
) -> dict[int, Tag]:
    """Read the `wanted` tags of the directory at byte `at`, at most `many` values of each; `big` as in BigTIFF.

    No others are read: thousands of tags, of all the file's bytes each, would take memory without bound. Of a tag that
    is there twice the first counts, as for libtiff. In EXIF data, a tag whose values lie beyond the end says nothing,
    and the others stay; in a TIFF, struct.error is raised for it.
    """
    count_form, entry_form, field = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    head, size = struct.calcsize(order + count_form), struct.calcsize(order + entry_form) + field
    tags: dict[int, Tag] = {}
    (count,) = struct.unpack_from(order + count_form, data, at)
    for number in range(min(count, _MANY_TAGS)):
        entry = at + head + size * number
        tag, kind, values = struct.unpack_from(order + entry_form, data, entry)
        if kind not in _TYPES or tag not in wanted or tag in tags:
            continue
        form, width = _TYPES[kind]
        offset = entry + size - field
        if width * values > field:
            (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, offset)
        if is_exif and offset + width * values > len(data):
            continue
        tags[tag] = _values(data, order + form, offset, kind, values, many)
    return tags


def _values(data: bytes | mmap.mmap, form: str, offset: int, kind: int, count: int, many: int) -> Tag:
    if kind in (1, 2, 7):
        raw = data[offset : offset + count]
        return raw.split(b"\0")[0].decode("latin-1") if kind == 2 else bytes(raw)
    codes = form[1:]
    found = struct.unpack_from(f"{form[0]}{min(count, many) * len(codes)}{codes[0]}", data, offset)
    if len(codes) == 2:  # fractions
        found = tuple(a / b if b else 0.0 for a, b in zip(found[::2], found[1::2], strict=True))
    return found


def byte_order(data: bytes) -> str:
    """Return struct's character for the byte order. Raise struct.error where it isn't TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise struct.error("no TIFF header")
    return order


class Camera:
    """What EXIF data says: orientation, maker and model, and whether its colours are Adobe RGB (DCF option file)."""

    def __init__(self, orientation: int = 1, model: str = "", is_adobe_rgb: bool = False) -> None:
        self.orientation, self.model, self.is_adobe_rgb = orientation, model, is_adobe_rgb


def read(data: bytes) -> Camera:
    """Read EXIF data, a TIFF header and its directories; what is damaged says nothing, as in other programs."""
    try:
        order = byte_order(data)
        tags = directory(data, order, struct.unpack_from(order + "I", data, 4)[0], _CAMERA, is_exif=True)
    except (struct.error, IndexError):
        return Camera()
    return Camera(orientation(tags), model(tags), _is_adobe_rgb(data, order, tags))


def orientation(tags: dict[int, Tag]) -> int:
    value = first(tags, ORIENTATION)
    return int(value) if value is not None and 1 <= value <= 8 else 1


def model(tags: dict[int, Tag]) -> str:
    return " ".join(str(tags[tag]).strip() for tag in (MAKE, MODEL) if isinstance(tags.get(tag), str))


def first(tags: dict[int, Tag], tag: int) -> float | None:
    """Return the first number of a tag; None where there is none."""
    values = tags.get(tag)
    return values[0] if isinstance(values, tuple) and values else None


def _is_adobe_rgb(data: bytes, order: str, tags: dict[int, Tag]) -> bool:
    """Return whether the interoperability directory calls the file a DCF option file, "R03", whose colours are so."""
    try:
        for ifd, wanted in ((EXIF_IFD, (INTEROP_IFD,)), (INTEROP_IFD, (_INTEROP_INDEX,))):
            at = first(tags, ifd)
            if at is None:
                return False
            tags = directory(data, order, int(at), wanted, is_exif=True)
    except (struct.error, IndexError):
        return False
    index = tags.get(_INTEROP_INDEX, "")
    return isinstance(index, str) and index.startswith("R03")
