"""Panorama files as people have them, read by the command line: pixels and encoding, or the reason of the refusal."""

from pathlib import Path

import numpy as np
import picture_cases
import pytest
from PIL import Image

from panoform.backend.io import panoramas, photo
from panoform.shared.protocol.errors import PanoramaError


@pytest.mark.parametrize("case", picture_cases.cases(), ids=picture_cases.identifier)
def test_file_is_read_or_refused(tmp_path, case):
    path = case.write(tmp_path)
    if case.pixels is None:
        with pytest.raises(PanoramaError, match=case.refusal) as caught:
            panoramas.read(path, layer=case.layer)
        assert caught.value.hint
        return
    pixels, encoding = panoramas.read(path, layer=case.layer)
    assert encoding == case.encoding
    np.testing.assert_allclose(pixels, case.pixels, atol=case.tolerance)


@pytest.mark.slow
def test_notes_tell_what_was_converted(tmp_path):
    told = {case.what: panoramas.read_reduced(case.write(tmp_path), None, layer=case.layer).notes
            for case in picture_cases.cases() if case.pixels is not None}  # fmt: skip
    assert told["EXR, chromaticities of ACES AP0"] == ("Its colours are converted from ACES AP0 (chromaticities).",)
    assert told["JPEG, ICC profile of Adobe RGB"] == ("Its colours are converted from Adobe RGB (1998) (ICC profile).",)
    assert told["EXR, one with layers `albedo` and `beauty`"] == ("Of its 2 layers, beauty is read.",)
    assert "pitch 12.0°, roll -3.0°" in told["PNG, GPano with pitch, roll and heading"][0]
    assert told["PNG, 16 bits"] == told["EXR, R, G, B"] == told["PNG, GPano of the whole sphere"] == ()


def test_missing_parts_are_transparent_for_extending(tmp_path):
    (case,) = (case for case in picture_cases.cases() if case.what == "PNG, GPano of a crop, 2:1")
    pixels, _ = panoramas.load(case.write(tmp_path))
    assert pixels.shape == (32, 64, 4)
    expected = np.zeros((32, 64))
    expected[8:24, 16:48] = 1
    np.testing.assert_array_equal(pixels[..., 3], expected)
    np.testing.assert_allclose(pixels[8:24, 16:48, :3], picture_cases.picture(), atol=1e-6)


def test_photos_are_converted_and_not_cropped_by_gpano(tmp_path):
    for what in ("PNG, ICC profile of Display P3", "PNG, gAMA 1.0", "TIFF of floats", "PNG, EXIF orientation 6"):
        (case,) = (case for case in picture_cases.cases() if case.what == what)
        expected = picture_cases.picture() if case.encoding == "linear" else case.pixels
        np.testing.assert_allclose(photo.read(case.write(tmp_path)).pixels, expected, atol=4e-3)
    (cropped,) = (case for case in picture_cases.cases() if case.what == "PNG, GPano of a crop, 2:1")
    np.testing.assert_allclose(photo.read(cropped.write(tmp_path)).pixels, picture_cases.picture(), atol=1e-6)
    grey = picture_cases.write_pillow(tmp_path / "grey.png", picture_cases.picture(), "L")
    assert np.ptp(photo.read(grey).pixels, axis=-1).max() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_grey_photos_are_converted_by_their_profile(tmp_path, suffix):
    path = picture_cases.write_pillow(
        tmp_path / f"a{suffix}", picture_cases.picture(), "L", icc_profile=picture_cases.grey_profile(1)
    )
    stored = np.asarray(Image.open(path), np.float32) / 255
    linear = np.repeat(stored[..., None], 3, -1)
    expected = picture_cases.converted(linear, "Linear Rec.709 (sRGB)", "sRGB Encoded Rec.709 (sRGB)")
    np.testing.assert_allclose(photo.read(path).pixels, expected, atol=0.02 if suffix == ".jpg" else 4e-3)
    with pytest.raises(PanoramaError, match="one channel"):
        panoramas.read(path)


def test_photo_with_transparent_pixels_is_refused_but_not_a_mask(tmp_path):
    (case,) = (case for case in picture_cases.cases() if case.what == "PNG with a transparent half")
    path = case.write(tmp_path)
    with pytest.raises(PanoramaError, match="256 transparent pixels"):
        photo.read(path)
    assert not photo.read_mask(path)[:, 16:].any()
    assert photo.read_rgba(path)[..., 3].tolist() == [[255] * 16 + [0] * 16] * 16


def test_docs_tell_what_is_read():
    """After a change of the list, put its new table (`picture_cases.table()`) into docs/files.md."""
    text = (Path(__file__).parents[3] / "docs" / "files.md").read_text("utf-8")
    assert picture_cases.table() in text
