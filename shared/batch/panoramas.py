"""The panoramas in a folder, and parts of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ..protocol.errors import InputError, SettingError

SUFFIXES = (".exr", ".hdr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def find(folder: Path) -> dict[Path, str]:
    """Return the panoramas in a folder and the names of their result folders. Raise InputError if there is none.

    These are the file names without extension, or with it where that is the name of another file or its folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give the folder of the panoramas.")
    files = sorted(file for file in folder.absolute().iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{folder} has no panoramas.", "Panoramas are EXR, HDR, PNG, JPEG, TIFF or WebP files.")
    taken = Counter(name.lower() for file in files for name in (file.stem, file.name))
    return {file: file.stem if taken[file.stem.lower()] == 1 else file.name for file in files}


def parse_part(text: str) -> tuple[int, int]:
    """Return (2, 10) for "2/10". Raise SettingError for what is not a part."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise SettingError(f"{text} is not a part.", "Give K/N, as 2/10: K from 1 to N.")
    return part, parts
