"""What a setup of the backend needs on this computer, and how far it has come: one fraction of the whole."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: Of the whole, the share of the downloads; the rest is the installation.
_DOWNLOAD_SHARE = 0.7
#: Bytes a second that a usual connection of 50 Mbit/s brings, and that are installed, measured on two processors.
_CONNECTION, _INSTALLED = 50e6 / 8, 24e6
#: Those of pip, and those of uv.
_UNITS = {
    "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9,
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


class Needs(NamedTuple):
    """Bytes that a setup downloads and that the environment then fills, to about 20 %."""

    download: float
    disk: float

    def minutes(self, *, offline: bool) -> int:
        """Return how long it takes; `offline`: nothing is downloaded."""
        return math.ceil(((0 if offline else self.download) / _CONNECTION + self.disk / _INSTALLED) / 60)


def needs(*, gpu: bool) -> Needs:
    """Return what this system needs; `gpu`: whether PyTorch is the build for a GPU of NVIDIA or AMD.

    With torch 2.13: the sizes of the wheels, and of the environment without CUDA. With CUDA the environment is taken as
    2.2 times its wheels.
    """
    return Needs(3.1e9, 7.0e9) if gpu else Needs(0.25e9, 1.4e9)


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that may not exist yet. Raise OSError."""
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    return shutil.disk_usage(existing).free


def gigabytes(count: float) -> str:
    """Return "3.1 GB"; as disks and downloads are labelled, 1 GB is 10⁹ bytes."""
    return f"{count / 1e9:.1f} GB"


class SetupProgress:
    """The progress of a setup, from the output of pip and, while that is silent, from the space that it fills."""

    def __init__(self, folder: Path, expected: Needs) -> None:
        self.text = "Starting"
        #: Whether the packages of the backend are being installed, not pip itself.
        self.is_last_step = False
        self._folder = folder
        self._expected = expected
        #: Bytes of complete downloads, and of the current one.
        self._downloaded, self._current = 0.0, 0.0
        #: Package → bytes of its download by uv, which tells when several begin and end, but not how far they are.
        self._beside: dict[str, float] = {}
        #: Free space when the installation began; None before.
        self._free_before: int | None = None
        self._largest = 0.0

    @property
    def fraction(self) -> float:
        """The part that is done, in [0, 1]. It never falls."""
        part = _DOWNLOAD_SHARE * min((self._downloaded + self._current) / self._expected.download, 1)
        if self._free_before is not None:
            with suppress(OSError):  # the folder may be replaced meanwhile; the part stays what it was
                filled = self._free_before - free_space(self._folder)
                part = _DOWNLOAD_SHARE + (1 - _DOWNLOAD_SHARE) * min(max(filled / self._expected.disk, 0), 0.99)
        self._largest = max(self._largest, part)
        return self._largest

    def parse(self, line: str) -> bool:
        """Update the progress from a line of pip or uv; return True for a line with only byte counts."""
        if match := re.match(r"Progress (\d+) of (\d+)", line):
            self._current = float(match[1])
            return True
        if match := re.match(r"\s*Collecting ([^\s<>=!~;@\[]+)", line):
            self._next_download()
            self.text = f"Looking for {match[1]}"
        elif match := re.match(r"\s*Downloading (\S+) \(([\d.]+)([KMG]?i?B)\)", line):
            self._beside[match[1]] = float(match[2]) * _UNITS[match[3]]
            self.text = self._downloading(match[1], match[2], match[3])
        elif match := re.match(r"\s*Downloaded (\S+)", line):
            self._downloaded += self._beside.pop(match[1], 0.0)
        elif match := re.match(r"\s*(Downloading|Using cached) (\S+) \(([\d.]+) (\w+)\)", line):
            self._next_download()
            name = "-".join(match[2].rsplit("/", 1)[-1].split("-")[:2]).removesuffix(".metadata")
            if match[1] == "Using cached":
                self._downloaded += float(match[3]) * _UNITS.get(match[4], 0)
            self.text = self._downloading(name, match[3], match[4])
        elif match := re.match(r"\s*Installing collected packages: (.+)", line):
            self._next_download()
            count = match[1].count(",") + 1
            self.text = f"Installing {count} package{'s' if count > 1 else ''}"
            if self.is_last_step:
                self._free_before = free_space(self._folder)
        return False

    def _downloading(self, name: str, size: str, unit: str) -> str:
        done = f"{gigabytes(self._downloaded)} of about {gigabytes(self._expected.download)}"
        return f"Downloading {name} ({size} {unit}) · {done}"

    def _next_download(self) -> None:
        self._downloaded, self._current = self._downloaded + self._current, 0.0
