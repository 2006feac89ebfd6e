"""The summary of a batch: a table of its panoramas as CSV, and as HTML with thumbnails.

Each tells by a digest of its own whether it is as it was written. That of the table is the last column, the same in
each row: the SHA-256 of the table in which this column is empty.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec
import numpy as np

from ...shared import overwriting
from ...shared.atomic_write import atomic_write_all
from ...shared.maps import DISTANCE, NORMAL
from ...shared.protocol.errors import InputError
from . import maps, panoramas
from .encoding import encode_jpeg

CSV_FILENAME, HTML_FILENAME = "summary.csv", "summary.html"
_THUMBNAIL_HEIGHT_PX = 96
_GENERATOR = '<meta name="generator" content="Panoform">'
#: The last line of a page: the SHA-256 of what precedes it.
_PAGE_DIGEST = re.compile(rb"<!-- SHA-256: ([0-9a-f]{64}) -->\n\Z")
#: The end of a table (`_csv`).
_TABLE_DIGEST = re.compile(rb",([0-9a-f]{64})\r\n\Z")
_HEAD = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{_GENERATOR}<title>Panoform</title><style>
body {{ font: 14px sans-serif; margin: 2em; color: #222; background: #fff }}
table {{ border-collapse: collapse }}
td {{ padding: .4em .8em .4em 0; border-top: 1px solid #ccc; vertical-align: top }}
figure {{ display: inline-block; margin: 0 .4em .4em 0 }} figcaption {{ font-size: 11px }} .failed {{ color: #b00 }}
</style></head><body>
"""


class Row(msgspec.Struct, kw_only=True):
    """One panorama of a batch."""

    panorama: str
    status: Literal["written", "finished earlier", "failed"]
    #: Its result folder, relative to the summary's.
    folder: str
    maps: tuple[str, ...] = ()
    engine: str = ""
    #: Seconds that it took, in the run that wrote it.
    seconds: float | None = None
    #: Why it failed.
    error: str = ""


def check(directory: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a summary would replace files that are not one, or were changed, unless `overwrite` is
    set."""
    overwriting.check((directory / name for name in (CSV_FILENAME, HTML_FILENAME)), _is_own, overwrite=overwrite)


def _is_own(path: Path) -> bool:
    """Return whether it is a page or a table as it was written. Raise OSError."""
    content, is_page = path.read_bytes(), path.name == HTML_FILENAME
    found = (_PAGE_DIGEST if is_page else _TABLE_DIGEST).search(content)
    if found is None:
        return False
    rest = content[: found.start()] if is_page else content.replace(found[1], b"")
    return _sha256(rest) == found[1].decode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(directory: Path, rows: Sequence[Row], *, overwrite: bool = False) -> None:
    """Write both tables to `directory`, which holds the result folders. Raise OutputError (also `check`)."""
    page = _html(directory, rows).encode()
    page += f"<!-- SHA-256: {_sha256(page)} -->\n".encode()
    table = _csv(rows, _sha256(_csv(rows, "").encode())).encode()
    check(directory, overwrite=overwrite)
    files = {directory / CSV_FILENAME: table, directory / HTML_FILENAME: page}
    atomic_write_all(files, make_folders=True)


def _csv(rows: Sequence[Row], digest: str) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow((*Row.__struct_fields__, "table_sha256"))
    for row in rows:
        values = msgspec.structs.asdict(row) | {"maps": " ".join(row.maps)}
        table.writerow((*values.values(), digest))
    return text.getvalue()


def _html(directory: Path, rows: Sequence[Row]) -> str:
    failed = sum(row.status == "failed" for row in rows)
    parts = [_HEAD, f"<h1>{len(rows)} panoramas, {failed} failed</h1>\n<table>\n"]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
        link = f'<a href="{quote(row.folder)}/">{html.escape(row.panorama)}</a>'
        shown = (
            f'<span class="failed">{html.escape(row.error)}</span>' if row.error else _figures(directory / row.folder)
        )
        parts.append(f"<tr><td>{link}<br>{row.status}<br>{seconds}</td><td>{shown}</td></tr>\n")
    return "".join((*parts, "</table></body></html>\n"))


def _figures(folder: Path) -> str:
    """Return the thumbnails of a result folder as HTML; why there are none where it can't be read."""
    try:
        found = maps.read(folder)
    except InputError as error:
        return html.escape(str(error))
    pictures = {"panorama": found.panorama[0]} if found.panorama else {}
    return "".join(_figure(name, pixels) for name, pixels in (pictures | found.maps).items())


def _figure(name: str, pixels: np.ndarray) -> str:
    pixels = panoramas.resize(pixels, _THUMBNAIL_HEIGHT_PX)
    if name == DISTANCE.name:
        pixels = pixels / pixels.max()
    elif name == NORMAL.name:
        pixels = pixels * 0.5 + 0.5
    picture = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).clip(0, 1)
    data = base64.b64encode(encode_jpeg(picture)).decode()
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{name}"><figcaption>{name}</figcaption></figure>'
