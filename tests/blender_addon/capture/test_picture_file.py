"""Panorama files as people have them, read by the add-on: the same as by the command line, from a file or an image."""

import bpy
import numpy as np
import picture_cases
import pytest

from panoform.blender_addon.capture import sources
from panoform.shared.protocol.errors import PanoramaError


@pytest.mark.parametrize("case", picture_cases.cases(), ids=picture_cases.identifier)
def test_file_is_read_or_refused(tmp_path, case):
    path = case.write(tmp_path)
    before = set(bpy.data.images)
    if case.pixels is None:
        with pytest.raises(PanoramaError, match=case.refusal) as caught:
            sources.from_file(path, layer=case.layer)
        assert caught.value.hint
    else:
        pixels, encoding = sources.from_file(path, layer=case.layer).panorama
        assert encoding == case.encoding
        np.testing.assert_allclose(pixels, case.pixels, atol=max(case.tolerance, 1e-6))
    assert set(bpy.data.images) == before


def test_image_datablock_is_read_as_its_file(tmp_path):
    chosen = [case for case in picture_cases.cases() if case.pixels is not None][::7]
    for case in chosen:
        for packed in (False, True):
            image = bpy.data.images.load(str(case.write(tmp_path)))
            if packed:
                image.pack()
            pixels, encoding = sources.from_image(image, layer=case.layer).panorama
            bpy.data.images.remove(image)
            assert encoding == case.encoding, case.what
            np.testing.assert_allclose(pixels, case.pixels, atol=max(case.tolerance, 1e-6), err_msg=case.what)


def test_world_of_a_converted_file_shows_what_was_read(tmp_path):
    for case in picture_cases.cases():
        if case.what in ("EXR, chromaticities of ACES AP0", "PNG, gAMA 1.0", "TIFF of floats", "EXR of several parts"):
            captured = sources.from_file(case.write(tmp_path))
            image = captured.world_picture()
            shown = sources.picture_file.displayed(image).colours
            assert image.packed_file
            np.testing.assert_allclose(shown.pixels, case.pixels, atol=2e-3, err_msg=case.what)
            bpy.data.images.remove(image)
