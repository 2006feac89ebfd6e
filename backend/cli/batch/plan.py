"""What a batch consists of: its panoramas, their result folders and the settings, and what of it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....shared import json_file
from ....shared.engines import EngineSettings
from ....shared.file_errors import display_name
from ....shared.jobs.perceive import Info, PerceiveSettings
from ....shared.maps import INFO_FILENAME, MAPS
from ....shared.protocol.errors import OutputError


@dataclass(frozen=True)
class Plan:
    """A batch. It can be sent to other processes, and to computers that have the same folders."""

    #: All panoramas of the folder, by absolute paths → the names of their result folders.
    panoramas: dict[Path, str]
    #: (2, 10): the second of ten parts is to be done. None: everything, with the summary.
    part: tuple[int, int] | None
    #: Absolute path of the folder that receives these folders and the summary.
    out: Path
    engine: EngineSettings
    settings: PerceiveSettings
    #: Whether files that are not Panoform's may be replaced.
    overwrite: bool

    @property
    def sources(self) -> list[Path]:
        """The panoramas that are to be done, in the order of the report."""
        part, parts = self.part or (1, 1)
        return list(self.panoramas)[part - 1 :: parts]

    def folder(self, source: Path) -> Path:
        """Return the result folder of a panorama."""
        return self.out / self.panoramas[source]


def finished(plan: Plan, source: Path, wanted: Mapping[str, Any]) -> Info | None:
    """Return the record of a panorama's result if it is complete, and as `wanted`.

    `wanted`: fields of the record (`job.identity`).

    Raise OutputError for the result of another panorama.
    """
    directory = plan.folder(source)
    path = directory / INFO_FILENAME
    try:
        info = json_file.read(path, Info)
    except (OSError, ValueError):
        return None  # writing a result there reports what is wrong
    if info.source != display_name(source.name):
        raise OutputError(f"{directory} holds the result of {info.source}.", "Choose another folder, or move it away.")
    same = all(getattr(info, name) == value for name, value in wanted.items())
    complete = all(name in info.maps and (directory / MAPS[name].filename).exists() for name in plan.settings.maps)
    newer = path.stat().st_mtime >= source.stat().st_mtime
    return info if same and complete and newer else None
