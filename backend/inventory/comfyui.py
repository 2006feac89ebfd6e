"""Find the models of ComfyUI on this computer, by the folders that its installers and manual choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...shared.file_errors import display_name
from ...shared.jobs.models import FoundFile
from ...shared.protocol.errors import PanoformError

#: Below the user's folder: a clone, the desktop application, the portable version for Windows.
_PLACES = (
    "ComfyUI",
    "Documents/ComfyUI",
    "ComfyUI_windows_portable/ComfyUI",
    "Downloads/ComfyUI_windows_portable/ComfyUI",
)
#: In its `models`: where base models are.
_FOLDERS = ("diffusion_models", "unet", "checkpoints")
_SUFFIXES = (".safetensors", ".gguf")
#: Files that are looked at: their headers are read.
_MAX_FILES = 200


def models_folders() -> list[Path]:
    """Return the `models` folders that exist."""
    return [folder for place in _PLACES if (folder := Path.home() / place / "models").is_dir()]


def find(inspect: Callable[[Path], object]) -> tuple[FoundFile, ...]:
    """Return the base models for which `inspect`, which reads headers, raises no PanoformError, the largest first."""
    found = []
    for path in _files():
        try:
            inspect(path)
        except PanoformError:
            continue  # another model
        found.append(FoundFile(path=str(path), bytes=path.stat().st_size))
    return tuple(sorted(found, key=lambda file: -file.bytes))


def _files() -> Iterator[Path]:
    paths = (
        path
        for models in models_folders()
        for folder in _FOLDERS
        for path in sorted((models / folder).rglob("*"))
        if path.suffix in _SUFFIXES and path.is_file() and display_name(path) == str(path)  # others can't be sent
    )
    yield from (path for path, _ in zip(paths, range(_MAX_FILES), strict=False))
