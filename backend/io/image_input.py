"""Open image files with OpenImageIO: the one place that calls its readers and translates what they report and raise.

The header is checked before OpenImageIO sees the file (shared/imaging/headers): its decoders allocate what a header
asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ...shared.file_errors import display_name
from ...shared.imaging import headers
from ...shared.protocol.errors import InputError, PanoramaError

AGAIN = "Save or download it again."
#: Names of its formats that headers.check knows; and Softimage, whose .pic is also Radiance's, but not its content.
_FORMATS = {"png", "jpeg", "openexr", "tiff", "hdr", "webp", "bmp", "targa", "softimage"}
#: Beginnings of OpenImageIO's advice to programmers, which follows its reason.
_ADVICE = ("If you're", "If you are", "Possible corrupt", "Consider", "Is it really", "Use the OIIO", "Set the OIIO")

# A second limit, should a decoder see another size than the header's parser: in MB, of one picture.
oiio.attribute("limits:imagesize_MB", headers.MAX_DECODED_BYTES // 2**20)


@contextmanager
def opened(
    path: Path,
    name: str = "",
    *,
    config: oiio.ImageSpec | None = None,
    channels: int | None = None,
    failure: type[InputError] = PanoramaError,
    hint: str = AGAIN,
) -> Iterator[oiio.ImageInput]:
    """Open an image for reading, after its header has been checked; `name` and `channels` as in headers.check_file.

    Raise `failure`, with `hint`, whatever OpenImageIO raises, in the block too; PanoramaError for a header that is
    refused.
    """
    name = name or display_name(path.name)
    header = headers.check_file(path, name, channels=channels)
    if _format_of(path) not in _FORMATS:
        raise failure(f"{name} has the extension of another format.", f"Rename it: it is {headers.FORMATS}.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise failure(f"The name of {name} or its folder is not UTF-8.", "Rename it.") from error
    with translated(name, failure, hint):
        source = oiio.ImageInput.open(str(path)) if config is None else oiio.ImageInput.open(str(path), config)
        if source is None:
            raise failure(f"{name} can't be read: {reason(oiio.geterror())}.", hint)
        try:
            if source.spec().image_pixels() > header.width * header.height:  # what the check allowed
                raise failure(f"{name} can't be read: its header contradicts itself.", hint)
            yield source
        finally:
            source.close()


@contextmanager
def translated(name: str, failure: type[InputError] = PanoramaError, hint: str = AGAIN) -> Iterator[None]:
    """Raise what OpenImageIO's Python module raises in the block as `failure`: texts that are no UTF-8, a size that it
    can't allocate, values of an unexpected type."""
    try:
        yield
    except MemoryError as error:
        raise failure(f"There is not enough memory to read {name}.", "Scale it down first.") from error
    except (UnicodeError, RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise failure(f"{name} can't be read: its header is damaged ({error}).", hint) from error


def read_all(
    source: oiio.ImageInput, name: str, failure: type[InputError] = PanoramaError, hint: str = AGAIN, subimage: int = 0
) -> np.ndarray:
    """Read all channels of a part, (H, W, C) float32; integers are scaled to [0, 1]. Raise `failure`."""
    source.seek_subimage(subimage, 0)
    pixels = source.read_image(subimage, 0, 0, source.spec().nchannels, "float")
    if pixels is None or source.has_error:
        raise failure(f"{name} is damaged: {reason(source.geterror())}.", hint)
    return np.asarray(pixels)


def read_rows(
    source: oiio.ImageInput, name: str, subimage: int, channels: tuple[int, int], rows: int
) -> Iterator[np.ndarray]:
    """Yield blocks of at least `rows` rows (the last may have less), from the top, (h, W, channels) float32.

    `channels`: the first, and that after the last. Tiled files are read in whole rows of tiles. Raise PanoramaError.
    """
    source.seek_subimage(subimage, 0)
    spec = source.spec()
    if spec.tile_height:
        rows = -(-rows // spec.tile_height) * spec.tile_height
    bottom = spec.y + spec.height
    for top in range(spec.y, bottom, rows):
        end = min(top + rows, bottom)
        if spec.tile_height:
            pixels = source.read_tiles(
                subimage, 0, spec.x, spec.x + spec.width, top, end, spec.z, spec.z + 1, *channels, "float"
            )
        else:
            pixels = source.read_scanlines(subimage, 0, top, end, spec.z, *channels, "float")
        if pixels is None or source.has_error:
            raise PanoramaError(f"{name} is damaged: {reason(source.geterror())}.", AGAIN)
        yield np.asarray(pixels).reshape(end - top, spec.width, -1)


def reason(error: str) -> str:
    """Return OpenImageIO's message as part of a sentence, without its advice to programmers."""
    lines = [" ".join(line.split()) for line in error.splitlines()]
    kept = [line for line in lines if line and not line.startswith(_ADVICE) and "OIIO" not in line]
    text = " ".join(dict.fromkeys(kept)).rstrip(".")
    return text or "its content is not an image"


def _format_of(path: Path) -> str:
    """Return the format that OpenImageIO tries first, by the extension; one that is read, where it knows none."""
    suffix = path.suffix.lower().removeprefix(".").partition("?")[0]
    return _extensions().get(suffix, "png")


@cache
def _extensions() -> dict[str, str]:
    formats = str(oiio.get_string_attribute("extension_list")).split(";")
    pairs = (entry.partition(":") for entry in formats if entry)
    return {extension: name for name, _, extensions in pairs for extension in extensions.split(",")}
