"""Encode pixels as the content of an image file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
from PIL import Image

from ...shared.atomic_write import DISK_FULL, MAKE_ROOM, drafts
from ...shared.imaging.colour_space import REC709
from ...shared.maps import SEMANTIC
from ...shared.picture_files import gpano
from ...shared.protocol.errors import OutputError

_PROBE_BYTES = 2**20
#: Four to eight times as fast as OpenImageIO's default, at the same size for pictures of real surfaces.
_FAST_PNG = {"compression": "rle", "png:compressionLevel": 1, "png:filter": 16}  # 16: differences to the left pixel


def encode_image(
    filename: str,
    pixels: np.ndarray,
    colorspace: str,
    attributes: Mapping[str, str] | None = None,
    *,
    bits: int | None = None,
    is_panorama: bool = False,
) -> bytes:
    """Return the content of the image file `filename` for (H, W, C) pixels.

    EXR has floats of 32 (default) or 16 `bits`, other formats 16 (default) or 8 (the semantic map always 8);
    `attributes` are stored in the header. A panorama says by GPano's metadata that it shows all directions; an EXR
    says its colour space. OpenImageIO's Python module writes files only, so a temporary one is read.
    Raise OutputError if it can't be written.
    """
    try:
        with drafts() as folder:
            path = folder / filename
            packet = gpano.write(pixels.shape[1], pixels.shape[0]) if is_panorama else ""
            _write(path, pixels, colorspace, attributes or {}, bits, packet)
            data = path.read_bytes()
            return _with_xmp(data, packet) if packet and path.suffix.lower() == ".png" else data
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OutputError(f"The disk is full: {filename} could not be written.", MAKE_ROOM) from error
        raise OutputError(f"{filename} could not be written as a temporary file: {error}.", MAKE_ROOM) from error


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """Return a JPEG of (H, W, 3) sRGB pixels in [0, 1], its colours at full resolution.

    It is encoded in memory: on a full disk, libjpeg's own writer, which OpenImageIO calls, ends the process.
    """
    stored = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(stored).save(content, "JPEG", quality=quality, subsampling="4:4:4")
    return content.getvalue()


def _is_complete(path: Path) -> bool:
    """Return whether an image file reads again. Of a PNG, only the checksums are, which takes a tenth of the time."""
    if path.suffix.lower() != ".png":
        return bool(oiio.ImageBuf(str(path)).read(force=True))
    data = memoryview(path.read_bytes())
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 8 + length
        if len(data) < end + 4 or zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        position = end + 4
    return True


def _check_disk(probe: Path, count: int) -> None:
    """Raise the OSError of a full disk, a quota or a limit by writing `count` bytes: writers of images tell none."""
    with probe.open("wb") as file:
        for _ in range(0, count, _PROBE_BYTES):
            file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _with_xmp(png: bytes, packet: str) -> bytes:
    """Return a PNG with an XMP packet after its header (PNG 3, 11.3.3.4), which OpenImageIO doesn't write."""
    chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + packet.encode()
    header_end = 33  # the signature and IHDR
    length, checksum = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[:header_end] + length + chunk + checksum + png[header_end:]


def _write(
    path: Path, pixels: np.ndarray, colorspace: str, attributes: Mapping[str, str], bits: int | None, packet: str
) -> None:
    height, width, channels = pixels.shape
    is_exr = path.suffix.lower() == ".exr"
    if is_exr:
        depth = "half" if bits == 16 else "float"
    else:
        depth = "uint8" if path.name == SEMANTIC.filename else f"uint{bits or 16}"
    spec = oiio.ImageSpec(width, height, channels, depth)
    if is_exr and colorspace == "Non-Color":
        spec.attribute("colorInteropID", "data")
    elif is_exr:
        spec.attribute("colorInteropID", "lin_rec709_scene")
        spec.attribute("chromaticities", oiio.TypeDesc("float[8]"), list(REC709))
        if packet:
            spec.attribute("xmp", packet)
    if colorspace == "sRGB":
        spec.attribute("oiio:ColorSpace", "sRGB")
    if path.suffix.lower() == ".png":
        for name, value in _FAST_PNG.items():
            spec.attribute(name, value)
    for name, value in attributes.items():
        spec.attribute(name, value)
    output = oiio.ImageOutput.create(str(path))
    written = output.open(str(path), spec) and output.write_image(np.ascontiguousarray(pixels, dtype=np.float32))
    error = output.geterror()
    output.close()
    # The PNG writer returns True on a full disk, so the file is checked.
    if not written or error or not _is_complete(path):
        _check_disk(path.with_name("probe"), pixels.nbytes)
        reason = (error or output.geterror() or "the file does not read again").splitlines()[0].strip().rstrip(".")
        raise OutputError(f"{path} could not be written: {reason}.", MAKE_ROOM)
