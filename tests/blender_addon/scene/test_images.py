"""Images that save and reload without loss."""

import bpy
import numpy as np
import pytest

from panoform.blender_addon.capture import pixels
from panoform.blender_addon.scene import images


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


@pytest.mark.parametrize(("colorspace", "channels"), [("sRGB", 3), ("Non-Color", 1), ("Non-Color", 3)])
def test_16bit_images_keep_16_bits(scene, tmp_path, colorspace, channels):
    values = np.random.default_rng(0).random((16, 32, channels)).astype(np.float32)
    images.create_16bit("hall albedo", values, colorspace)
    reload(tmp_path)
    image = bpy.data.images["hall albedo"]
    assert image.packed_file
    assert image.colorspace_settings.name == colorspace
    back = pixels.read(image)
    assert back.encoding == ("srgb" if colorspace == "sRGB" else "linear")
    # Half a 16-bit step, and another for the conversion from sRGB to linear and back.
    np.testing.assert_allclose(back.pixels, np.broadcast_to(values, (16, 32, 3)), atol=1.5 / 65535)


def test_existing_image_of_that_name_is_kept(scene):
    first = images.create_float("hall distance", np.ones((2, 4, 1), np.float32), "Non-Color")
    second = images.create_float("hall distance", np.zeros((2, 4, 1), np.float32), "Non-Color")
    third = images.create_16bit("hall distance", np.zeros((2, 4, 1), np.float32), "Non-Color")
    assert len({first.name, second.name, third.name}) == 3
    assert pixels.raw(first)[..., 0].min() == 1
