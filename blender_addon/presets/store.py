"""The user's presets: a file each, in a folder of the extension that updates keep."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import bpy

from ...shared.atomic_write import atomic_write, translate_errors
from ...shared.protocol.errors import InputError, SettingError
from ..preferences import EXTENSION
from . import schema
from .schema import Preset

SUFFIX = ".json"
#: Letters, digits and what can stand between them in file names of every system.
_NAME = re.compile(r"[^\W_]([\w .+-]{0,62}[\w+-])?")
#: Names of devices, which files can't have on Windows, whatever their suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def folder(kind: str) -> Path:
    """Return the folder of a kind of presets, which may not exist."""
    return Path(bpy.utils.extension_path_user(EXTENSION, path="presets")) / kind


def names(kind: str) -> list[str]:
    """Return the names of the presets, in order."""
    found = (path.stem for path in folder(kind).glob(f"*{SUFFIX}"))
    return sorted((name for name in found if _is_name(name)), key=str.casefold)


def path(kind: str, name: str) -> Path:
    """Return the path of a preset's file. Raise SettingError for a name that files can't have."""
    if not _is_name(name):
        raise SettingError(
            f"{name!r} can't be the name of a preset.", "Use letters, digits, spaces and - + . _, at most 64."
        )
    return folder(kind) / f"{name}{SUFFIX}"


def save(kind: str, name: str, preset: Preset) -> None:
    """Save a preset, in place of one with this name. Raise SettingError, OutputError."""
    target = path(kind, name)
    with translate_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, schema.encode(preset))


def delete(kind: str, name: str) -> None:
    """Delete a preset. Raise InputError if there is none, OutputError."""
    target = find(kind, name)
    with translate_errors(target.parent):
        target.unlink()


def find(kind: str, name: str) -> Path:
    """Return the file of a preset. Raise InputError if there is none."""
    if name not in names(kind):
        known = ", ".join(names(kind)) or "none"
        raise InputError(f"There is no preset {name!r} for {kind.capitalize()}.", f"Saved presets: {known}.")
    return path(kind, name)


def free_name(kind: str, stem: str) -> str:
    """Return the name for an imported file: its stem, without what names can't have, and numbered where it is taken."""
    words = " ".join(re.findall(r"[\w+-]+", stem))[:56].strip(" +-_")
    base = words if _is_name(words) else "Preset"
    taken = {name.casefold() for name in names(kind)}
    numbered = (base if count == 1 else f"{base} {count}" for count in itertools.count(1))
    return next(name for name in numbered if name.casefold() not in taken)


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not _RESERVED.fullmatch(name)
