"""What the header of a picture's file says of its pixels."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import NamedTuple

from ..imaging.colour_space import ColourSpace
from ..protocol.errors import PanoramaError
from . import gpano

#: The content of a file.
Data = bytes | mmap.mmap

READABLE = "Panoramas are read from EXR, HDR, PNG, JPEG, TIFF, WebP, BMP and TGA."


class Window(NamedTuple):
    """Where the stored pixels lie in the whole picture, in pixels from its top left corner; they may exceed it."""

    left: int
    top: int
    width: int
    height: int


class Layer(NamedTuple):
    """Channels of an EXR that form a colour picture."""

    #: "ViewLayer.Combined"; "" for R, G, B without a name.
    name: str
    #: Index of its part in the file.
    part: int
    #: Channels for red, green, blue, and alpha where it exists, as the file names them.
    channels: tuple[str, ...]


@dataclass
class Header:
    """What a file says of its pixels. The defaults are those of a file that says nothing."""

    #: "PNG".
    format: str
    #: Size of the stored pixels; (0, 0) where it is left to the decoder.
    width: int = 0
    height: int = 0
    #: Whether the values are floats, which are linear light where nothing else is said; integers are sRGB.
    is_float: bool = False
    #: None: linear Rec.709 of floats, sRGB of integers.
    colour: ColourSpace | None = None
    #: Orientation as EXIF counts it, 1 (upright) to 8.
    orientation: int = 1
    #: Place of the stored pixels in a picture of `whole` (width, height); None: they are all of it.
    window: Window | None = None
    whole: tuple[int, int] | None = None
    #: What a camera or viewer wrote of the projection; None: nothing.
    sphere: gpano.Sphere | None = None
    #: Of an EXR: the layers with colour, and the one to read.
    layers: list[Layer] = field(default_factory=list)
    layer: Layer | None = None
    #: Whether Blender and others show another layer, part or window unless this one is taken out (exr.extract).
    needs_extraction: bool = False
    #: The XMP packet, from which `sphere` is read.
    xmp: bytes = b""
    #: Of a JPEG: where its first scan begins.
    pixels_at: int = 0
    #: Why this is no panorama (no colour, a dual-fisheye picture); None: nothing says so.
    refusal: PanoramaError | None = None
    #: What a user should know of the reading.
    notes: list[str] = field(default_factory=list)

    @property
    def is_placed(self) -> bool:
        """Return whether the stored pixels are the picture, upright and whole."""
        return self.orientation == 1 and self.window is None and (self.sphere is None or self.sphere.is_whole)

    @property
    def is_plain(self) -> bool:
        """Return whether the stored pixels are the picture, in the encoding that the kind of file implies."""
        return self.is_placed and self.colour is None and not self.needs_extraction
