"""Files say what they hold, and read again exactly: by our reader, OpenImageIO, and Pillow."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import OpenImageIO as oiio
import pytest
from PIL import Image

from panoform.backend.io import panoramas
from panoform.backend.io.encoding import encode_image, encode_jpeg
from panoform.shared.picture_files import reading


@pytest.mark.parametrize(("name", "colorspace"), [("a.exr", "Linear Rec.709"), ("a.png", "sRGB")])
def test_panorama_says_its_colours_and_that_it_is_whole(tmp_path, name, colorspace):
    pixels = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
    path = tmp_path / name
    path.write_bytes(encode_image(name, pixels, colorspace, is_panorama=True))
    read, encoding = panoramas.read(path)
    assert encoding == ("linear" if name == "a.exr" else "srgb")
    np.testing.assert_allclose(read, pixels, atol=0 if name == "a.exr" else 1e-5)
    np.testing.assert_allclose(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT), pixels, atol=1e-5)
    header = reading.read_file(path)
    assert header.sphere is not None
    assert (header.sphere.full_width, header.sphere.full_height) == (32, 16)
    assert header.is_plain
    assert not header.notes


def test_viewers_find_the_projection_in_a_png(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_image("a.png", np.zeros((16, 32, 3), np.float32), "sRGB", is_panorama=True))
    with Image.open(path) as image:
        image.load()
        packet = image.info["XML:com.adobe.xmp"]
    (description,) = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    gpano = "{http://ns.google.com/photos/1.0/panorama/}"
    assert description.get(f"{gpano}ProjectionType") == "equirectangular"
    assert description.get(f"{gpano}FullPanoWidthPixels") == "32"


@pytest.mark.parametrize(("colorspace", "interop"), [("Linear Rec.709", "lin_rec709_scene"), ("Non-Color", "data")])
def test_exr_says_its_colour_space(tmp_path, colorspace, interop):
    path = tmp_path / "a.exr"
    path.write_bytes(encode_image("a.exr", np.zeros((16, 32, 3), np.float32), colorspace))
    spec = oiio.ImageBuf(str(path)).spec()
    assert spec.getattribute("colorInteropID") == interop
    primaries = spec.getattribute("chromaticities")
    if interop == "data":
        assert primaries is None
    else:
        np.testing.assert_allclose(primaries, (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329), atol=1e-6)


def test_jpegs_read_again():
    rows, columns = np.mgrid[0:32, 0:64].astype(np.float32)
    pixels = np.stack([rows / 32, columns / 64, 0.5 + 0.4 * np.sin(rows / 9)], axis=-1)
    image = Image.open(io.BytesIO(encode_jpeg(pixels * 1.2 - 0.1)))
    assert (image.format, image.size, image.mode) == ("JPEG", (64, 32), "RGB")
    np.testing.assert_allclose(np.asarray(image) / 255, (pixels * 1.2 - 0.1).clip(0, 1), atol=0.04)
