"""Job templates for render farms: the work of a batch, as tasks that a farm hands to its computers.

Each task does a part of the panoramas (`--part`); the last one, when all others are done, writes the summary. The
computers of the farm need the command, and the folders of panoramas and results.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .. import overwriting
from ..atomic_write import atomic_write
from . import flamenco, openjd
from .farm_job import MARK, FarmJob

#: An Open Job Description template (JSON); a job type for Flamenco's manager (JavaScript).
KINDS: dict[str, Callable[[FarmJob, Path], str]] = {"openjd": openjd.template, "flamenco": flamenco.job_type}

#: Larger files are no templates.
_MAX_BYTES = 2**20
_MARK = MARK.encode()
#: The mark in a file, with the digest of the file without it.
_MARK_IN_FILE = re.compile(re.escape(_MARK) + rb" SHA-256 of the rest: ([0-9a-f]{64})")


def write(kind: str, job: FarmJob, path: Path, sources: Iterable[Path], *, overwrite: bool) -> None:
    """Write the template of a kind; it replaces no `sources`. Raise SettingError for a job that it can't express,
    OutputError."""
    content = KINDS[kind](job, path).encode()
    overwriting.check([path], _is_own, sources, overwrite)
    mark = f"{MARK} SHA-256 of the rest: {hashlib.sha256(content).hexdigest()}"
    atomic_write(path, content.replace(_MARK, mark.encode(), 1))


def _is_own(path: Path) -> bool:
    """Return whether a file is a template as it was written. Raise OSError."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    mark = _MARK_IN_FILE.search(content)
    if mark is None or len(content) > _MAX_BYTES:
        return False
    rest = content[: mark.start()] + _MARK + content[mark.end() :]
    return hashlib.sha256(rest).hexdigest() == mark[1].decode()
