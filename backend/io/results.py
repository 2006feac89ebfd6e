"""What perception gives, and the folder it is kept in.

A result folder holds one file a map (names and formats: shared.maps), the panorama as the model saw it, `maps.json`.
All of it is first written to a hidden folder within the result folder and flushed to disk; only then the files are
moved into place, one atomic rename each, `maps.json` last. Whatever fails before leaves the folder as it was.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import OpenImageIO as oiio

from ...shared.jobs.perceive import Info
from ...shared.maps import INFO_FILENAME, MAPS, PANORAMA_FILENAME, SEMANTIC
from ...shared.protocol.errors import OutputError

_ELSEWHERE = "Make room on the disk, or choose another folder."


@dataclasses.dataclass(frozen=True)
class Perceived:
    """The result of one job; the same three that a `messages.PerceiveReply` carries."""

    #: Map name → (H, W, channels) float32, as shared.maps tells.
    maps: dict[str, np.ndarray]
    #: The panorama as the model saw it, (H, W, 3) float32 sRGB in [0, 1].
    panorama: np.ndarray
    info: Info


def write(directory: Path, perceived: Perceived) -> None:
    """Write a result folder; an earlier result in it is replaced, and maps of it that the new one lacks are removed.

    Raises OutputError where the folder can't be written or the disk is full; then nothing of this result is left in it,
    unless an earlier file is kept open and can't be replaced (Windows): then there is no `maps.json`.
    """
    with writing(directory) as draft:
        for name, pixels in perceived.maps.items():
            write_image(draft / MAPS[name].filename, pixels, MAPS[name].colorspace)
        write_image(draft / PANORAMA_FILENAME, perceived.panorama, "sRGB")
        info = msgspec.json.format(msgspec.json.encode(perceived.info), indent=2)
        (draft / INFO_FILENAME).write_bytes(info + b"\n")
        for file in draft.iterdir():
            flush(file)
        outdated = _written_before(directory) - {file.name for file in draft.iterdir()}
        (directory / INFO_FILENAME).unlink(missing_ok=True)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == INFO_FILENAME):
            file.replace(directory / file.name)
        for name in outdated:
            (directory / name).unlink(missing_ok=True)


def check_writable(directory: Path) -> None:
    """Raises OutputError where a result folder could not be written to `directory`, before any time is spent on it."""
    with writing(directory, keep=False):
        pass


@contextmanager
def writing(directory: Path, *, keep: bool = True) -> Iterator[Path]:
    """A draft folder within `directory`, gone afterwards; so are folders made for it unless the writing succeeds."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    done = False
    draft: Path | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".panoform-", dir=directory))
        yield draft
        done = keep
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"The disk is full: {directory} could not be written.", _ELSEWHERE) from error
        raise OutputError(
            f"{directory} can't be written: {error.strerror}.", "Choose a folder that you may write to."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if not done:
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def _written_before(directory: Path) -> set[str]:
    """Names of the map files that the earlier result in this folder consists of."""
    try:
        info = msgspec.json.decode((directory / INFO_FILENAME).read_bytes(), type=Info)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return set()
    return {MAPS[name].filename for name in info.maps if name in MAPS}


def write_image(path: Path, pixels: np.ndarray, colorspace: str, attributes: Mapping[str, str] | None = None) -> None:
    """Writes (H, W, C), EXR as float32, others in 16 bits, with attributes in its header. Raises OutputError."""
    height, width, channels = pixels.shape
    depth = "float" if path.suffix.lower() == ".exr" else "uint8" if path.name == SEMANTIC.filename else "uint16"
    spec = oiio.ImageSpec(width, height, channels, depth)
    if colorspace == "sRGB":
        spec.attribute("oiio:ColorSpace", "sRGB")
    for name, value in (attributes or {}).items():
        spec.attribute(name, value)
    output = oiio.ImageOutput.create(str(path))
    written = output.open(str(path), spec) and output.write_image(np.ascontiguousarray(pixels, dtype=np.float32))
    error = output.geterror()
    output.close()
    # The PNG writer says True on a full disk, so what counts is whether the file reads again.
    if not written or error or oiio.ImageBuf(str(path)).read(force=True) is False:
        reason = (error or output.geterror() or "the file does not read again").splitlines()[0].strip().rstrip(".")
        raise OutputError(f"{path.name} could not be written: {reason}.", _ELSEWHERE)


def flush(file: Path) -> None:
    """Onto the disk."""
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())
