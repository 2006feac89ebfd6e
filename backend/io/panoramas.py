"""Read panoramas from files, and check them.

What a file says of its pixels (colours, orientation, layers, windows, crops) is read by `shared/picture_files`, as the
add-on does. Where it says nothing, floating-point files (EXR, HDR, float TIFF) are linear Rec.709 light, and integer
files (PNG, JPEG, TIFF, WebP) are sRGB.

Files are read and checked some rows at a time, and reduced meanwhile to the size that is needed: a panorama of
16384 × 8192 takes 1.6 GB as floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import OpenImageIO as oiio

from ...shared.file_errors import display_name
from ...shared.panorama_size import check_size
from ...shared.picture_files import assemble, reading
from ...shared.picture_files.header import Header
from ...shared.protocol.errors import PanoramaError
from . import image_input
from .resample import reduction, resample, resize

__all__ = ["OPAQUE", "Encoding", "Read", "check", "load", "read", "read_reduced", "resize"]

Encoding = Literal["linear", "srgb"]

#: Below this alpha a pixel counts as transparent (half floats store 1 exactly; renderers leave 0.9998).
OPAQUE = 0.999
#: How negative a channel of a colour outside Rec.709 may be, as a share of the pixel's largest channel. Of the eight
#: HDRIs that come with Blender, seven have such pixels; the largest share is 0.195.
OUT_OF_GAMUT = 0.25
#: Rows that are read and checked together.
_ROWS = 128
_FLOATS = (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
_COLOUR = "A panorama needs red, green and blue: save it as an RGB image."


class Read(NamedTuple):
    """A panorama that was read from a file."""

    #: (H, W, 3) float32 with W = 2·H, valid as `check` returns it.
    pixels: np.ndarray
    encoding: Encoding
    #: Height and width in the file.
    source_size: tuple[int, int]
    #: What a user should know of how it was read.
    notes: tuple[str, ...]


def read(path: Path, *, repair: bool = False, layer: str = "") -> tuple[np.ndarray, Encoding]:
    """Read a panorama file as ((H, W, 3) float32 with W = 2·H, "linear" or "srgb"), checked as `check` does.

    Raise PanoramaError (`load`, `check`).
    """
    pixels, encoding, *_ = read_reduced(path, None, repair=repair, layer=layer)
    return pixels, encoding


def read_reduced(path: Path, height: int | None, *, repair: bool = False, layer: str = "") -> Read:
    """Read a panorama file, checked as `check` does, in the size that a model's input of `height` needs.

    At least MARGIN times that height is kept (resample.reduction); None: all. `layer` of an EXR; "": the one that shows
    light. Raise PanoramaError (`load`, `check`), with the reason where pixels are transparent or missing.
    """
    largest = _largest(path, layer) if repair else None
    with _opened(path, layer) as source:
        rows, columns = source.size
        reduced, tally = reduction(rows, columns, height), _Tally(repair, source.header)
        for block in source.blocks():
            tally.add(block)
            reduced.add(_valid(block, largest))
        tally.finish(source.encoding)
        return Read(reduced.result(), source.encoding, source.size, tuple(assemble.notes(source.header)))


def load(path: Path, layer: str = "") -> tuple[np.ndarray, Encoding]:
    """Read a panorama file: ((H, W, 3 or, with alpha, 4) float32, "linear" or "srgb"), upright and whole.

    Alpha is 0 where the file shows nothing. `layer` of an EXR; "": the one that shows light.
    Raise PanoramaError if it can't be read, is too large, or not 2:1 to within 1 %.
    """
    with _opened(path, layer) as source:
        return np.concatenate(list(source.blocks())), source.encoding


class _Source(NamedTuple):
    """An open panorama file."""

    name: str
    input: oiio.ImageInput
    subimage: int
    #: Indices of red, green, blue, and of alpha if it exists.
    channels: list[int]
    #: Height and width of the panorama, upright and whole.
    size: tuple[int, int]
    header: Header

    @property
    def encoding(self) -> Encoding:
        return "linear" if self.header.is_float else "srgb"

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield rows of the panorama from the top, (h, W, 3 or 4) float32."""
        if self.header.is_placed:
            yield from (assemble.coloured(block, self.header) for block in self._stored())
            return
        whole = assemble.placed(np.concatenate(list(self._stored())), self.header, self.name)
        for top in range(0, len(whole), _ROWS):
            yield assemble.coloured(whole[top : top + _ROWS], self.header)

    def _stored(self) -> Iterator[np.ndarray]:
        """Yield the rows that the file stores."""
        first, last = min(self.channels), max(self.channels)
        order = [channel - first for channel in self.channels]
        for block in image_input.read_rows(self.input, self.name, self.subimage, (first, last + 1), _ROWS):
            yield block if order == list(range(block.shape[2])) else block[..., order]


@contextmanager
def _opened(path: Path, layer: str = "") -> Iterator[_Source]:
    name = display_name(path.name)
    header = reading.read_file(path, layer, channels=4)
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)
    with image_input.opened(path, config=config, channels=4, hint=reading.READABLE) as source:
        subimage = header.layer.part if header.layer else 0
        source.seek_subimage(subimage, 0)
        spec = source.spec()
        header.is_float = spec.format.basetype in _FLOATS
        size = assemble.size(header, (spec.height, spec.width), name)
        check_size(*size)
        yield _Source(name, source, subimage, _channels(list(spec.channelnames), header, name), size, header)


def _channels(names: list[str], header: Header, name: str) -> list[int]:
    """Return the indices of red, green, blue, and of alpha if it exists."""
    wanted = header.layer.channels if header.layer else [channel for channel in "RGBA" if channel in names]
    if len(wanted) < 3 or not set(wanted) <= set(names):
        raise PanoramaError(f"{name} has no colour: its channels are {', '.join(names)}.", _COLOUR)
    return [names.index(channel) for channel in wanted]


def check(panorama: np.ndarray, encoding: Encoding, *, repair: bool = False) -> np.ndarray:
    """Return the panorama as (H, W, 3) float32 with W = 2·H exactly, finite and ≥ 0.

    `panorama` is (H, W, 3) or, with alpha, (H, W, 4); opaque alpha is dropped. Within 1 % of 2:1 it is resized.
    A negative channel beside one at least four times as large is a colour outside Rec.709 (most HDRIs have some): it
    becomes 0. With `repair`, NaN becomes 0, ±infinity the largest finite value or 0, and all negative values 0.
    Raise PanoramaError if it is otherwise invalid.
    """
    if panorama.ndim != 3:
        raise PanoramaError(f"The panorama has shape {panorama.shape}, not (height, width, 3).", _COLOUR)
    height, width, channels = panorama.shape
    check_size(height, width)
    if channels not in (3, 4):
        raise PanoramaError(f"The panorama has {channels} channel{'s' * (channels != 1)} per pixel, not 3.", _COLOUR)
    panorama, tally = panorama.astype(np.float32, copy=False), _Tally(repair)
    blocks = [panorama[top : top + _ROWS] for top in range(0, height, _ROWS)]
    for block in blocks:
        tally.add(block)
    tally.finish(encoding)
    if channels == 4 or tally.smallest < 0 or not tally.is_finite:
        largest = max((_finite_maximum(block) for block in blocks), default=0.0) if repair else None
        valid = np.empty((height, width, 3), np.float32)
        for index, block in enumerate(blocks):
            valid[index * _ROWS : index * _ROWS + len(block)] = _valid(block, largest)
        panorama = valid
    panorama = np.ascontiguousarray(panorama)
    return panorama if width == 2 * height else resample(panorama, width // 2, width // 2 * 2)


class _Tally:
    """Counts the invalid pixels of a panorama while its rows pass."""

    def __init__(self, repair: bool, header: Header | None = None) -> None:
        """`header` of the file, where there is one."""
        self._repair, self._header = repair, header
        self._counts: dict[str, int] = dict.fromkeys(("transparent", "not a number", "infinite", "negative"), 0)
        self._pixels, self._top = 0, 0
        #: Column and row of the first invalid pixel.
        self._first: tuple[int, int] | None = None
        self._largest = 0.0
        #: Of all values that are numbers; whether all are finite.
        self.smallest, self.is_finite = 0.0, True

    def add(self, block: np.ndarray) -> None:
        """Count those of the next rows, (h, W, 3 or 4)."""
        if block.shape[2] == 4:
            self._counts["transparent"] += int(np.count_nonzero(~(block[..., 3] >= OPAQUE)))
        colour = block[..., :3]
        smallest, largest = float(colour.min()), float(colour.max())  # NaN if any is
        finite = bool(np.isfinite(smallest) and np.isfinite(largest))
        self.is_finite &= finite
        if not finite or smallest < 0:
            self._count(colour)
        self.smallest = min(self.smallest, 0.0 if np.isnan(smallest) else smallest)
        self._largest = max(self._largest, 0.0 if np.isnan(largest) else largest)
        self._pixels += block.shape[0] * block.shape[1]
        self._top += len(block)

    def _count(self, colour: np.ndarray) -> None:
        invalid = {
            "not a number": np.isnan(colour).any(-1),
            "infinite": np.isinf(colour).any(-1),
            "negative": colour.min(-1) < -OUT_OF_GAMUT * np.maximum(colour.max(-1), 0),
        }
        for name, mask in invalid.items():
            self._counts[name] += int(np.count_nonzero(mask))
        bad = np.logical_or.reduce(list(invalid.values()))
        if self._first is None and bad.any():
            row, column = np.argwhere(bad)[0]
            self._first = int(column), int(row) + self._top

    def finish(self, encoding: Encoding) -> None:
        """Raise PanoramaError if the panorama is invalid."""
        if transparent := self._counts.pop("transparent"):
            raise assemble.missing(self._header, transparent, self._pixels)
        if self._first is not None and not self._repair:
            found = ", ".join(f"{count} {name}" for name, count in self._counts.items() if count)
            column, row = self._first
            raise PanoramaError(
                f"The panorama has bad pixels: {found}; the first is at column {column}, row {row} (from the top "
                "left).",
                "Repair it (--repair, or Repair Pixels in the panel), or render it again.",
            )
        if encoding == "srgb" and self._largest > 1 and (np.isfinite(self._largest) or not self._repair):
            raise PanoramaError(
                f"The picture is sRGB, but its largest value is {self._largest:g}, not 1.", "Give it as linear."
            )


def _valid(block: np.ndarray, largest: float | None) -> np.ndarray:
    """Return the colours of rows, (h, W, 3), without negative values; with `largest`, which replaces infinity,
    repaired."""
    colour = block[..., :3]
    if largest is not None:
        colour = np.nan_to_num(colour, nan=0.0, posinf=largest, neginf=0.0)
    return np.maximum(colour, 0)


def _finite_maximum(block: np.ndarray) -> float:
    """Return the largest finite value of the colours, at least 0."""
    colour = block[..., :3]
    return float(np.max(colour, where=np.isfinite(colour), initial=0.0))


def _largest(path: Path, layer: str) -> float:
    """Return the largest finite value in a panorama file, at least 0. Raise PanoramaError (`load`)."""
    with _opened(path, layer) as source:
        return max((_finite_maximum(block) for block in source.blocks()), default=0.0)
