"""Images that save and reload without loss."""

import bpy
import numpy as np
import pytest

from panoform.backend.io import results
from panoform.blender_addon.capture import pixels
from panoform.blender_addon.scene import images
from panoform.shared.maps import MAPS
from panoform.shared.protocol.errors import PanoramaError


def reload(tmp_path):
    for image in bpy.data.images:
        image.use_fake_user = True
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Ünï code.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "Ünï code.blend"))


@pytest.mark.parametrize("colorspace", ["Non-Color", "Linear Rec.709"])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_images_are_exact(scene, tmp_path, colorspace, channels):
    values = np.random.default_rng(0).normal(size=(16, 32, channels)).astype(np.float32)
    values[0, 0], values[0, 1] = 65505.123, 1e-7  # not exact in half float or sRGB
    images.create_float("hall distance", values, colorspace)
    reload(tmp_path)
    image = bpy.data.images["hall distance"]
    assert image.packed_file
    assert image.colorspace_settings.name == colorspace
    np.testing.assert_array_equal(pixels.raw(image)[..., :3], np.broadcast_to(values, (16, 32, 3)))


def test_float_images_in_srgb_keep_16_bits(scene, tmp_path):
    values = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
    before = pixels.read(images.create_float("hall panorama", values, "sRGB"))
    reload(tmp_path)
    image = bpy.data.images["hall panorama"]
    assert image.packed_file
    for found in (before, pixels.read(image)):
        assert found.encoding == "srgb"
        np.testing.assert_allclose(found.pixels, values, atol=1.5 / 65535)  # Blender's conversion to linear


@pytest.mark.parametrize("kind", MAPS.values(), ids=MAPS)
def test_files_of_the_backend_are_kept_byte_for_byte(scene, tmp_path, kind):
    values = np.random.default_rng(0).random((16, 32, kind.channels)).astype(np.float32)
    if kind.name == "normal":
        values = values * 2 - 1
    data = results.encode_maps({kind.name: values})[kind.name]
    images.create_from_file("hall map", np.frombuffer(data, np.uint8), kind.colorspace)
    reload(tmp_path)
    image = bpy.data.images["hall map"]
    assert image.packed_file.data == data
    assert image.colorspace_settings.name == kind.colorspace
    back = pixels.read(image)
    assert back.encoding == ("srgb" if kind.colorspace == "sRGB" else "linear")
    # Half a step of the file, and another for Blender's conversion from sRGB to linear and back.
    tolerance = {"exr": 0, "png": 0.51 / 255 if kind.name == "semantic" else 1.5 / 65535}[kind.filename[-3:]]
    np.testing.assert_allclose(back.pixels, np.broadcast_to(values, (16, 32, 3)), atol=tolerance, rtol=0)


def test_what_is_not_an_image_is_refused(scene):
    with pytest.raises(PanoramaError, match="hall albedo"):
        images.create_from_file("hall albedo", np.arange(100, dtype=np.uint8), "sRGB")
    assert not bpy.data.images


def test_existing_image_of_that_name_is_kept(scene):
    first = images.create_float("hall distance", np.ones((2, 4, 1), np.float32), "Non-Color")
    second = images.create_float("hall distance", np.zeros((2, 4, 1), np.float32), "Non-Color")
    data = results.encode_maps({"distance": np.zeros((2, 4, 1), np.float32)})["distance"]
    third = images.create_from_file("hall distance", np.frombuffer(data, np.uint8), "Non-Color")
    assert len({first.name, second.name, third.name}) == 3
    assert pixels.raw(first)[..., 0].min() == 1
