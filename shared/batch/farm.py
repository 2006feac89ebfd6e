"""Job templates for render farms: the work of a batch, as tasks that a farm hands to its computers.

Each task does a part of the panoramas (`--part`); the last one, when all others are done, writes the summary. The
computers of the farm need the command, and the folders of panoramas and results.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import overwriting
from ..atomic_write import atomic_write
from . import flamenco, openjd
from .farm_job import MARK, FarmJob

#: An Open Job Description template (JSON); a job type for Flamenco's manager (JavaScript).
KINDS: dict[str, Callable[[FarmJob, Path], str]] = {"openjd": openjd.template, "flamenco": flamenco.job_type}


def write(kind: str, job: FarmJob, path: Path, *, overwrite: bool) -> None:
    """Write the template of a kind. Raise SettingError for a job that it can't express, OutputError."""
    text = KINDS[kind](job, path)
    overwriting.check([path], lambda found: MARK in found.read_text("utf-8", "replace"), overwrite=overwrite)
    atomic_write(path, text.encode())
