"""Read what the header of a picture's file says of its pixels, alike in both programs, without decoding pixels.

Formats: EXR, Radiance HDR, PNG, JPEG, TIFF, WebP; of BMP and TGA there is nothing to read.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..file_errors import display_name, opened
from ..imaging import headers
from ..protocol.errors import PanoramaError
from . import formats, gpano, whole
from .header import READABLE, Data, Header

__all__ = ["READABLE", "mapped", "read", "read_file"]


def read_file(path: Path, layer: str = "", *, is_panorama: bool = True, channels: int | None = None) -> Header:
    """Read the header of a file as `read` does, after its size is known to be safe to decode (imaging/headers).

    `channels`: how many the decoder keeps; None: as Blender. Raise PanoramaError also where it can't be opened.
    """
    name = display_name(path.name)
    with mapped(path) as data:
        if is_panorama:
            formats.identify(data, name)
        headers.check_file(path, name, channels=channels)
        return read(data, name, layer, is_panorama=is_panorama)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Give a file's content without reading all of it. Raise PanoramaError where it is missing or empty."""
    with opened(path, PanoramaError) as stream:
        if not stream.seek(0, os.SEEK_END):
            raise PanoramaError(
                f"{display_name(path.name)} can't be read: it is empty (0 bytes).", "Save or download it again."
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def read(data: Data, name: str, layer: str = "", *, is_panorama: bool = True) -> Header:
    """Read what the file says of its pixels.

    Args:
        data: The content of the file.
        name: Its name, for messages; its suffix tells formats without a signature.
        layer: Of an EXR, the layer to read; "": the one that shows light (`exr.choose`).
        is_panorama: Whether it is to show all directions in colour. Else other formats, grey ones, and what is
            written of a projection are left to the decoder.

    Raise PanoramaError where the file says that it is not what it should be, or is damaged.
    """
    try:
        kind = formats.identify(data, name)
    except PanoramaError:
        if is_panorama:
            raise
        return Header("another format")
    reader: Callable[[Data, str, str], Header] = formats.READERS[kind]
    try:
        header = reader(data, name, layer)
    except (struct.error, zlib.error, IndexError, KeyError, ValueError, OverflowError) as error:
        raise PanoramaError(f"{name} can't be read: its header is damaged.", "Save or download it again.") from error
    if layer and kind != "EXR":
        raise PanoramaError(f"{name} has no layers: it is a {kind} file.", "Give --layer only for an EXR.")
    if is_panorama:
        if header.refusal:
            raise header.refusal
        header.sphere = gpano.read(header.xmp, name)
    whole.check(data, header, name)
    return header
