"""Encode pixels as the content of an image file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ...shared.atomic_write import MAKE_ROOM
from ...shared.maps import SEMANTIC
from ...shared.protocol.errors import OutputError


def encode_image(
    filename: str, pixels: np.ndarray, colorspace: str, attributes: Mapping[str, str] | None = None, *, bits: int = 16
) -> bytes:
    """Return the content of the image file `filename` for (H, W, C) pixels.

    EXR is float32, other formats have `bits` bits, 16 or 8 (JPEG and the semantic map always 8); `attributes` are
    stored in the header. OpenImageIO's Python module writes files only, so a temporary one is read. Raise OutputError
    if it can't be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="panoform-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / filename
            _write(path, pixels, colorspace, attributes or {}, bits)
            return path.read_bytes()
    except OSError as error:
        raise OutputError(f"{filename} could not be written as a temporary file: {error}.", MAKE_ROOM) from error


def _write(path: Path, pixels: np.ndarray, colorspace: str, attributes: Mapping[str, str], bits: int) -> None:
    height, width, channels = pixels.shape
    depth = "float" if path.suffix.lower() == ".exr" else "uint8" if path.name == SEMANTIC.filename else f"uint{bits}"
    spec = oiio.ImageSpec(width, height, channels, depth)
    if colorspace == "sRGB":
        spec.attribute("oiio:ColorSpace", "sRGB")
    for name, value in attributes.items():
        spec.attribute(name, value)
    output = oiio.ImageOutput.create(str(path))
    written = output.open(str(path), spec) and output.write_image(np.ascontiguousarray(pixels, dtype=np.float32))
    error = output.geterror()
    output.close()
    # The PNG writer returns True on a full disk, so the file is read again to check it.
    if not written or error or oiio.ImageBuf(str(path)).read(force=True) is False:
        reason = (error or output.geterror() or "the file does not read again").splitlines()[0].strip().rstrip(".")
        raise OutputError(f"{path} could not be written: {reason}.", MAKE_ROOM)
