"""Picture file, or image datablock of one → array, as its header says (shared/picture_files), decoded by Blender.

Blender decodes the stored values; colours, orientation, windows and crops are applied as the backend does. Layers and
parts of an EXR, which Blender's Python can't read, are taken out as a file of their own first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...shared.atomic_write import drafts
from ...shared.imaging.shrink import block_side
from ...shared.panorama_size import check_size
from ...shared.picture_files import assemble, exr, reading, tiff_bands
from ...shared.picture_files.header import Header
from ...shared.protocol.errors import PanoramaError
from . import colour_management, image_limits, pixels
from .pixels import Pixels

#: Below this alpha a pixel counts as transparent, as in the backend.
OPAQUE = 0.999


class Reading(NamedTuple):
    """A picture as its file shows it, or as Blender displays it."""

    colours: Pixels
    #: (H, W) float32; None where all of it is opaque.
    alpha: np.ndarray | None
    #: Whether Blender displays the file so by itself.
    is_plain: bool
    #: None where Blender's display was read.
    header: Header | None = None
    #: Height and width before it was reduced; None where it was not.
    source_size: tuple[int, int] | None = None

    def opaque(self, name: str) -> Pixels:
        """Return the colours. Raise PanoramaError, with the reason, where pixels are transparent or missing."""
        if self.alpha is None:
            return self.colours
        count = int(np.count_nonzero(~(self.alpha >= OPAQUE)))
        if not count:
            return self.colours
        raise assemble.missing(self.header or Header(name), count, self.alpha.size)

    @property
    def notes(self) -> list[str]:
        return assemble.notes(self.header) if self.header else []


def read(
    path: Path,
    layer: str = "",
    *,
    is_panorama: bool = True,
    height: int | None = None,
    has_alpha: bool = True,
) -> Reading:
    """Read a picture's file; `layer` of an EXR. Raise PanoramaError where it isn't read, or no panorama.

    `height` of a model's input: a panorama is reduced to what that needs (`_side`). None: it keeps its size.
    `has_alpha`: False where its alpha is to be ignored, as Blender does where that is chosen.
    """
    header = reading.read_file(path, layer, is_panorama=is_panorama)
    if header.width and is_panorama:
        check_size(*assemble.size(header, (header.height, header.width), path.name))
    stored = _means_of_bands(path, header, height) if is_panorama else None
    if stored is not None:
        return _reading(stored, header, path.name, (header.height, header.width), has_alpha)
    with _loaded(path, header) as image:
        stored, size = _stored(image, header, path.name, is_panorama, height)
    return _reading(stored, header, path.name, size, has_alpha)


def layer_names(path: Path) -> list[str]:
    """Return the names of the layers with colour in an EXR; none for another file, or one that can't be read."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return list(_layer_names(path, stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=8)  # panels ask at each redraw
def _layer_names(path: Path, _modified_ns: int, _size: int) -> tuple[str, ...]:
    try:
        with reading.mapped(path) as data:
            return tuple(exr.layer_names(data))
    except PanoramaError:
        return ()


def read_image(
    image: bpy.types.Image, layer: str = "", *, is_panorama: bool = True, height: int | None = None
) -> Reading:
    """Read an image datablock: as its file says where the user has not chosen a colour space, else as displayed.

    `height` as in `read`. Raise PanoramaError where it can't be read, or is no panorama.
    """
    with _file(image) as path:
        if path is None:
            return displayed(image, is_panorama=is_panorama, height=height)
        header = reading.read_file(path, layer, is_panorama=is_panorama)
        chosen = image.colorspace_settings.name
        # Where the file says nothing of its colours, both ways read it alike.
        if (header.colour is None and colour_management.is_plain(image, header.is_float)) or chosen == _default(path):
            has_alpha = image.alpha_mode != "NONE"
            return read(path, layer, is_panorama=is_panorama, height=height, has_alpha=has_alpha)
        if image.type != "MULTILAYER":
            return displayed(image, is_panorama=is_panorama, height=height)
        with _loaded(path, header) as single:
            single.colorspace_settings.name = chosen
            single.alpha_mode = image.alpha_mode
            return displayed(single, is_panorama=is_panorama, height=height)._replace(is_plain=False)


def _default(path: Path) -> str:
    """Return the colour space that Blender chooses for a file, which it decodes for that."""
    with _loaded(path) as fresh:
        _ = fresh.size[:]
        return fresh.colorspace_settings.name


def displayed(image: bpy.types.Image, *, is_panorama: bool = True, height: int | None = None) -> Reading:
    """Read an image datablock as Blender displays it; `height` as in `read`. Raise PanoramaError."""
    image_limits.check(image)
    columns, rows = image.size  # loads the file; 0 if it can't be read, which `pixels.raw` reports
    if is_panorama and rows and columns:
        check_size(rows, columns)
    side = _side(rows, columns, height)
    colours, alpha = pixels.read_with_alpha(image, side)
    if side > 1 and not np.isfinite(colours.pixels).all():
        return displayed(image, is_panorama=is_panorama)
    return Reading(colours, alpha, is_plain=True, source_size=(rows, columns))


def _side(rows: int, columns: int, height: int | None) -> int:
    """Return the side of the blocks of pixels that a panorama is averaged over (imaging/shrink), as the backend does.

    Where a mean isn't finite, all pixels are read instead: the backend reports or repairs them at their places.
    """
    return block_side(rows, columns, height) if height and rows and columns else 1


def _can_reduce(header: Header) -> bool:
    # The mean of values that are converted afterwards is another than the backend's, but for linear ones.
    return header.is_placed and (header.colour is None or header.is_float)


def _means_of_bands(path: Path, header: Header, for_height: int | None) -> np.ndarray | None:
    """Return the stored pixels of a TIFF, reduced, of which Blender decodes a band at a time; None where it can't."""
    side = _side(header.height, header.width, for_height)
    if header.format != "TIFF" or side == 1 or not _can_reduce(header):
        return None
    means = []
    with reading.mapped(path) as data:
        for content in tiff_bands.bands(data, side) or ():
            with _unpacked(path.name, content) as image:
                means.append(_raw(image, path.name, side))
    stored = np.concatenate(means) if means else None
    return stored if stored is not None and np.isfinite(stored).all() else None


def _stored(
    image: bpy.types.Image, header: Header, name: str, is_panorama: bool, for_height: int | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the stored pixels of an image, reduced where that is possible, and their height and width before."""
    width, height = image.size
    if is_panorama and width and height:
        check_size(*assemble.size(header, (height, width), name))
    side = _side(height, width, for_height) if is_panorama and _can_reduce(header) else 1
    stored = _raw(image, name, side)
    if side > 1 and not np.isfinite(stored).all():
        image.reload()
        stored = pixels.raw(image)
    return stored, (height, width)


def _raw(image: bpy.types.Image, name: str, side: int) -> np.ndarray:
    """Return the stored pixels of an image that is given up for it. Raise PanoramaError where it can't be read."""
    image.colorspace_settings.is_data = True
    image.alpha_mode = "CHANNEL_PACKED"
    if not all(image.size):
        raise PanoramaError(f"{name} is damaged: Blender can't read its pixels.", "Save or download it again.")
    return pixels.raw(image, side, in_place=True)


def _reading(stored: np.ndarray, header: Header, name: str, size: tuple[int, int], has_alpha: bool) -> Reading:
    """Return what a file with the `stored` pixels shows; `size`: their height and width before they were reduced."""
    if not has_alpha:
        stored[..., 3:] = 1
    is_default = header.format == "TIFF" and header.is_float  # Blender takes a TIFF's floats for sRGB
    picture, encoding = assemble.assemble(stored, header, name)
    alpha = None if np.all(picture[..., 3] == 1) else picture[..., 3]
    colours = Pixels(np.ascontiguousarray(picture[..., :3]), encoding)
    plain = header.is_plain and not is_default
    return Reading(colours, alpha, plain, header, size if stored.shape[:2] != size else None)


@contextmanager
def _loaded(path: Path, header: Header | None = None) -> Iterator[bpy.types.Image]:
    """Load a file as an image that is removed in the end; of an EXR only the layer of `header`, where it needs that."""
    if header and header.layer and header.needs_extraction:
        with reading.mapped(path) as data:
            content = exr.extract(data, header.layer)
        with _unpacked(path.name, content) as image:
            yield image
        return
    image = image_limits.load(path)
    try:
        yield image
    finally:
        bpy.data.images.remove(image)


@contextmanager
def _unpacked(name: str, content: bytes) -> Iterator[bpy.types.Image]:
    """Give the image in the content of a file, removed in the end."""
    image = bpy.data.images.new(name, 1, 1, float_buffer=True)
    try:
        image.pack(data=content, data_len=len(content))
        image.source = "FILE"
        yield image
    finally:
        bpy.data.images.remove(image)


@contextmanager
def _file(image: bpy.types.Image) -> Iterator[Path | None]:
    """Give the file that an image shows unchanged, packed or on disk; None where there is none."""
    path = Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None
    if image.source != "FILE" or image.is_dirty:
        yield None
    elif image.packed_file:
        with drafts() as folder:
            copy = folder / (path.name if path and path.name else "Packed image")  # an image's name may be no file's
            copy.write_bytes(image.packed_file.data)
            yield copy
    else:
        yield path if path is not None and path.is_file() else None
