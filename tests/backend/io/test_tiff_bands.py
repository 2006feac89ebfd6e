"""The bands of a TIFF, read by OpenImageIO, are its rows."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.shared.picture_files import tiff_bands

HEIGHT, WIDTH = 600, 40


def written(path: Path, depth: str, channels: int, **attributes: str | int) -> np.ndarray:
    """Write noise, and return it as OpenImageIO reads it."""
    spec = oiio.ImageSpec(WIDTH, HEIGHT, channels, depth)
    if channels == 4:
        spec.alpha_channel = 3
    spec.tile_width = spec.tile_height = int(attributes.pop("tile", 0))
    for name, value in attributes.items():
        spec.attribute(name.replace("_", ":"), value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), oiio.geterror()
    assert output.write_image(np.random.default_rng(0).random((HEIGHT, WIDTH, channels), np.float32))
    output.close()
    return pixels(path)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT))


def decoded(path: Path, multiple: int) -> Iterator[np.ndarray]:
    """Give the pixels of each band."""
    for content in tiff_bands.bands(path.read_bytes(), multiple) or ():
        band = path.with_name("band.tif")
        band.write_bytes(content)
        yield pixels(band)


@pytest.mark.parametrize(
    ("depth", "channels", "attributes"),
    [
        ("uint16", 3, {"compression": "none", "tiff_RowsPerStrip": HEIGHT}),
        ("uint16", 4, {"compression": "lzw", "tiff_RowsPerStrip": 6, "oiio_UnassociatedAlpha": 1}),
        ("uint16", 3, {"compression": "zip", "tiff_RowsPerStrip": 7, "tiff_bigtiff": 1, "tiff_predictor": 2}),
        ("uint8", 4, {"compression": "packbits", "tiff_RowsPerStrip": 1}),
        ("float", 3, {"compression": "zip", "tiff_RowsPerStrip": 64, "tiff_predictor": 3}),
        ("uint16", 3, {"compression": "none", "tiff_RowsPerStrip": 17, "ImageDescription": "left out"}),
        ("uint16", 3, {"compression": "zip", "tile": 16, "tiff_predictor": 2}),
        ("uint8", 4, {"compression": "none", "tile": 64, "oiio_UnassociatedAlpha": 1}),
        ("float", 3, {"compression": "lzw", "tile": 48, "planarconfig": "separate"}),
        ("uint16", 4, {"compression": "zip", "tiff_RowsPerStrip": 7, "planarconfig": "separate"}),
        ("uint16", 3, {"compression": "none", "tiff_RowsPerStrip": 17, "planarconfig": "separate"}),
    ],
)
def test_bands_hold_the_rows_of_the_picture(tmp_path, depth, channels, attributes):
    whole = written(tmp_path / "a.tif", depth, channels, **attributes)
    rows = [*decoded(tmp_path / "a.tif", 4)]
    assert len(rows) > 1
    assert all(len(band) % 4 == 0 for band in rows)
    np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_bands_of_the_other_byte_order(tmp_path):
    """Most significant byte first, as no OpenImageIO writes it: a header, a directory and rows without compression."""
    values = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH, 3)).astype(">u2")
    # Tag, type (3: 16 bits, 4: 32), value.
    tags = [(256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 16), (259, 3, 1), (262, 3, 2), (273, 4, 512), (277, 3, 3),
            (278, 4, HEIGHT), (279, 4, values.nbytes), (284, 3, 1)]  # fmt: skip
    content = struct.pack(">2sHIH", b"MM", 42, 8, len(tags))
    for tag, kind, value in tags:
        field = struct.pack(">I" if kind == 4 else ">H", value)
        if tag == 258:  # of each channel, at byte 256
            field = struct.pack(">I", 256)
        content += struct.pack(">HHI", tag, kind, 3 if tag == 258 else 1) + field.ljust(4, b"\0")
    content = content.ljust(256, b"\0") + struct.pack(">3H", 16, 16, 16)
    path = tmp_path / "a.tif"
    path.write_bytes(content.ljust(512, b"\0") + values.tobytes())
    whole = pixels(path)
    np.testing.assert_allclose(whole, values / 65535, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([*decoded(path, 8)]), whole)


@pytest.mark.parametrize("attributes", [{"tiff_RowsPerStrip": HEIGHT}, {"tile": 512}])
def test_pictures_of_few_pieces_cannot_be_parted(tmp_path, attributes):
    written(tmp_path / "a.tif", "uint16", 3, compression="zip", **attributes)
    assert tiff_bands.bands((tmp_path / "a.tif").read_bytes(), 300) is None
