"""What a render farm is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: In every template, so that it is recognised as Panoform's own.
MARK = "Made by panoform batch --job-template."


@dataclass(frozen=True)
class FarmJob:
    """A batch as a command line in parts."""

    #: The program and its first arguments, ("panoform", "batch"); further ones after FOLDER and --out.
    command: tuple[str, ...]
    options: tuple[str, ...]
    #: Absolute paths of the folders of the panoramas and of their results.
    panoramas: Path
    results: Path
    #: The number of tasks.
    tasks: int
