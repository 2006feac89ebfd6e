"""What the parsers of headers return and raise."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple


class ImageHeader(NamedTuple):
    """What an image file says of itself."""

    #: OpenImageIO's name of the format.
    format: str
    #: Size in pixels; of a file with several parts or pages, the largest of each.
    width: int
    height: int
    #: Number of channels of all pixels that Blender keeps: in an EXR those of all parts.
    samples: int
    #: Bytes that a decoder needs beside the pixels: tiles, strips, coefficients, tables, text.
    buffers: int = 0
    #: Size of the stored pixels, where the picture that they are a part of may be larger; None: width and height.
    stored: tuple[int, int] | None = None


class Malformed(Exception):
    """A header that no decoder should see. The message is part of a sentence."""


def exactly(stream: BinaryIO, count: int) -> bytes:
    """Read `count` bytes. Raise Malformed where the file ends before."""
    data = stream.read(count)
    if len(data) < count:
        raise Malformed("it is cut short")
    return data
