"""What decoding an image file needs, read from its header alone: one rule for the backend and for Blender.

Decoders allocate what a header asks for before they read a pixel, so that a file of a few kilobytes can take all
memory. `check` refuses such files before a decoder opens them. A file whose header is not understood here is refused
too: nothing else bounds what a decoder would do with it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ...engines import MAX_PANORAMA_WIDTH
from ...file_errors import display_name, opened
from ...protocol.errors import PanoramaError
from . import exr, jpeg, png, simple, tiff
from .header import ImageHeader, Malformed

#: Longest side in pixels.
MAX_SIDE = MAX_PANORAMA_WIDTH
#: The largest panorama (at most 1 % higher than half its width) as Blender decodes it: four floats for each pixel,
#: beside the up to eight bytes of each that a PNG holds.
MAX_DECODED_BYTES = MAX_SIDE**2 // 2 * 101 // 100 * (16 + 8)
#: Formats that are read, as error messages name them.
FORMATS = "EXR, HDR, PNG, JPEG, TIFF, WebP, BMP or TGA"

#: Beginning of a file → its parser.
_PARSERS: dict[bytes, Callable[[BinaryIO], ImageHeader]] = {
    b"\x89PNG\r\n\x1a\n": png.read,
    b"\xff\xd8\xff": jpeg.read,
    b"\x76\x2f\x31\x01": exr.read,
    b"II*\0": tiff.read,
    b"MM\0*": tiff.read,
    b"II+\0": tiff.read,
    b"MM\0+": tiff.read,
    b"#?": simple.read_hdr,
    b"RIFF": simple.read_webp,
    b"BM": simple.read_bmp,
}


def check_file(path: Path, name: str = "", *, channels: int | None = None) -> ImageHeader:
    """Return the header of an image file, which messages call `name`. Raise PanoramaError as `check`, or where it can't
    be read."""
    with opened(path, PanoramaError) as stream:
        return check(stream, name or display_name(path.name), channels=channels)


def check_bytes(data: bytes, name: str) -> ImageHeader:
    """Return the header of the content of an image file, `name`. Raise PanoramaError as `check`."""
    return check(io.BytesIO(data), name)


def check(stream: BinaryIO, name: str, *, channels: int | None = None) -> ImageHeader:
    """Return the header of the image file in `stream`, at its beginning.

    `channels`: how many of each pixel the decoder keeps, as floats; None: all of the file's, and at least four, as
    Blender does. Raise PanoramaError if it is no image of a known format, its header is damaged, or decoding it needs
    more than MAX_SIDE pixels per side or MAX_DECODED_BYTES.
    """
    start = stream.read(8)
    stream.seek(0)
    parser = next((parser for magic, parser in _PARSERS.items() if start.startswith(magic)), None)
    if parser is None and name.lower().endswith((".tga", ".targa")):  # has no magic number
        parser = simple.read_tga
    if parser is None:
        raise PanoramaError(
            f"{name} can't be read: it is {'not an image of a known format' if start else 'empty (0 bytes)'}.",
            f"Images are read from {FORMATS}. Save or download it again.",
        )
    try:
        header = parser(stream)
    except (Malformed, struct.error, IndexError, ValueError, OverflowError) as error:
        reason = str(error).rstrip(".") if isinstance(error, Malformed) else "its header is cut short or damaged"
        raise PanoramaError(f"{name} can't be read: {reason}.", "Save or download it again.") from error
    _check_size(header, name, channels)
    return header


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise PanoramaError as `check` for an image that Blender would make, without a file."""
    _check_size(ImageHeader("", width, height, 4 * width * height), name, None)


def _check_size(header: ImageHeader, name: str, channels: int | None) -> None:
    if header.width < 1 or header.height < 1:
        raise PanoramaError(f"{name} is empty ({header.width} × {header.height}).", "Choose another image.")
    if max(header.width, header.height) > MAX_SIDE:
        raise PanoramaError(
            f"{name} is {header.width} × {header.height}; at most {MAX_SIDE} pixels per side are read.",
            "Scale it down first.",
        )
    pixels = header.width * header.height
    samples = pixels * channels if channels else max(header.samples, 4 * pixels)
    needed = 4 * samples + header.buffers
    if needed > MAX_DECODED_BYTES:
        raise PanoramaError(
            f"{name} ({header.width} × {header.height}) would take {needed / 1e9:.1f} GB to decode, more than the "
            f"{MAX_DECODED_BYTES / 1e9:.1f} GB of the largest panorama.",
            "Save it smaller, with fewer layers, or in smaller tiles or strips.",
        )
