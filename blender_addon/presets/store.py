"""The user's presets: a file each, in a folder of the extension that updates keep.

Names are in Unicode's composed form (NFC), whatever the system makes of them, and differ in more than case.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from pathlib import Path

import bpy

from ...shared.atomic_write import atomic_write, translate_errors
from ...shared.file_names import is_device
from ...shared.protocol.errors import InputError, SettingError
from ..preferences import EXTENSION
from . import schema
from .schema import Preset

SUFFIX = ".json"
#: The zero-width non-joiner and joiner.
_JOINERS = "\u200c\u200d"
#: Of a name in UTF-8: systems allow 255, with the suffix and that of a file that is being written.
_MAX_BYTES = 200
#: Letters, digits and what can stand between them in file names of every system; marks count as "_".
_NAME = re.compile(r"[^\W_]([\w .+-]{0,62}[\w+-])?")


def folder(kind: str) -> Path:
    """Return the folder of a kind of presets, which may not exist."""
    return Path(bpy.utils.extension_path_user(EXTENSION, path="presets")) / kind


def names(kind: str) -> list[str]:
    """Return the names of the presets, in order."""
    return sorted(_files(kind), key=str.casefold)


def path(kind: str, name: str) -> Path:
    """Return the path of a new preset's file. Raise SettingError for a name that files can't have."""
    name = _composed(name)
    if not _is_name(name):
        raise SettingError(
            f"{name!r} can't be the name of a preset.",
            "Use letters, digits, spaces and - + . _, at most 64 (50 in rare scripts).",
        )
    return folder(kind) / f"{name}{SUFFIX}"


def save(kind: str, name: str, preset: Preset) -> None:
    """Save a preset, in place of one with this name. Raise SettingError, OutputError.

    A name that differs only in case from that of another is refused: on some systems it would replace that.
    """
    name, files = _composed(name), _files(kind)
    target = files.get(name) or path(kind, name)
    for other in files.keys() - {name}:
        if name not in files and other.casefold() == name.casefold():
            raise SettingError(f"There is a preset {other!r} already.", "Use its name, to replace it, or another one.")
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
    found = _files(kind).get(_composed(name))
    if found is None:
        known = ", ".join(names(kind)) or "none"
        raise InputError(f"There is no preset {name!r} for {kind.capitalize()}.", f"Saved presets: {known}.")
    return found


def free_name(kind: str, stem: str) -> str:
    """Return the name for an imported file: its stem, without what names can't have, and numbered where it is taken."""
    allowed = (char if re.match(r"[\w+-]", char) or _is_mark(char) else " " for char in _composed(stem))
    words = " ".join("".join(allowed).split())[:56].encode()[: _MAX_BYTES - 8].decode("utf-8", "ignore").strip(" +-_")
    base = words if _is_name(words) else "Preset"
    taken = {name.casefold() for name in names(kind)}
    numbered = (base if count == 1 else f"{base} {count}" for count in itertools.count(1))
    return next(name for name in numbered if name.casefold() not in taken)


def _files(kind: str) -> dict[str, Path]:
    """Return the files of the presets by name."""
    found = {_composed(path.stem): path for path in folder(kind).glob(f"*{SUFFIX}")}
    return {name: path for name, path in found.items() if _is_name(name)}


def _is_name(name: str) -> bool:
    shape = "".join("_" if _is_mark(char) else char for char in name)
    return bool(_NAME.fullmatch(shape)) and not is_device(name) and len(name.encode()) <= _MAX_BYTES


def _is_mark(char: str) -> bool:
    """Return whether a character is written on or beside the one before it, as vowels of many scripts are, or says
    whether letters are joined, as Persian and Indian words need it."""
    return unicodedata.category(char).startswith("M") or char in _JOINERS


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
