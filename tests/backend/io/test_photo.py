"""Reading photos: orientation, compared with Pillow, field of view from EXIF, and invalid files."""

from __future__ import annotations

import math

import numpy as np
import OpenImageIO as oiio
import pytest
from PIL import Image, ImageOps

from panoform.backend.io import photo
from panoform.shared.protocol.errors import PanoramaError


def write_photo(path, pixels, **attributes):
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], "uint8")
    for name, value in attributes.items():
        spec.attribute(name, value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), output.geterror()
    assert output.write_image(pixels)
    output.close()


def test_field_of_view_is_read_from_exif(tmp_path):
    pixels = np.zeros((60, 90, 3), np.uint8)
    for name, attributes, fov in (
        ("35mm", {"Exif:FocalLengthIn35mmFilm": 28}, 2 * math.degrees(math.atan(18 / 28))),
        ("none", {}, None),
        ("nonsense", {"Exif:FocalLengthIn35mmFilm": 60000}, None),
    ):
        write_photo(tmp_path / f"{name} ä.jpg", pixels, **attributes)
        read = photo.read(tmp_path / f"{name} ä.jpg")
        assert read.fov == (None if fov is None else pytest.approx(fov, abs=1e-3))
        assert read.pixels.shape == (60, 90, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_by_pillow(tmp_path, orientation):
    y, x = np.mgrid[:48, :80]
    pixels = np.stack([3 * x, 5 * y, 255 * ((x < 16) & (y < 16))], -1).astype(np.uint8)  # no symmetry
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=tags)
    with Image.open(tmp_path / "p.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.allclose(photo.read(tmp_path / "p.png").pixels, upright / 255, atol=1e-6)


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
def test_field_of_view_is_that_of_the_upright_photo(tmp_path, orientation):
    write_photo(
        tmp_path / "p.jpg", np.zeros((60, 90, 3), np.uint8), Orientation=orientation,
        **{"Exif:FocalLengthIn35mmFilm": 28},
    )  # fmt: skip
    wide_mm = 36 if orientation == 3 else 24  # of 35 mm film, upright
    assert photo.read(tmp_path / "p.jpg").fov == pytest.approx(2 * math.degrees(math.atan(wide_mm / 2 / 28)), abs=1e-3)


def test_missing_invalid_and_oversized_files_are_rejected(tmp_path):
    with pytest.raises(PanoramaError, match="no file"):
        photo.read(tmp_path / "absent.jpg")
    for content in (b"not a picture", b""):
        (tmp_path / "text.jpg").write_bytes(content)
        with pytest.raises(PanoramaError, match="can't be read"):
            photo.read(tmp_path / "text.jpg")
    write_photo(tmp_path / "long.png", np.zeros((1, 16385, 3), np.uint8))
    with pytest.raises(PanoramaError, match="16384"):
        photo.read(tmp_path / "long.png")
