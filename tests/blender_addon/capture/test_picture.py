"""Pictures and their cameras, from EXIF data and in the scene."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Euler, Vector
from PIL import Image, ImageOps

from panoform.backend.io import photo
from panoform.blender_addon.capture import exif, picture
from panoform.shared.jobs.generate import View
from panoform.shared.protocol.errors import SceneError, SettingError


def jpeg(path: Path, **attributes) -> Path:
    """Write a 48 × 32 JPEG with a red upper left corner."""
    array = np.zeros((32, 48, 3), np.float32)
    array[:8, :8, 0] = 1
    spec = oiio.ImageSpec(48, 32, 3, oiio.UINT8)
    for name, value in attributes.items():
        spec.attribute(name.replace("_", ":", 1), value)
    buffer = oiio.ImageBuf(spec)
    buffer.set_pixels(oiio.ROI(), array)
    assert buffer.write(str(path)), buffer.geterror()
    return path


FOCAL = {"Exif_FocalLength": 20.0, "Exif_FocalPlaneXResolution": 3.0, "Exif_FocalPlaneResolutionUnit": 4}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("tags", [{"Exif_FocalLengthIn35mmFilm": 28}, FOCAL, {"Exif_FocalLength": 20.0}, {}])
def test_photo_matches_openimageio(orientation: int, tags: dict, scene, tmp_path: Path) -> None:
    """The field of view as in the backend, the orientation as in Pillow."""
    path = jpeg(tmp_path / "phöto.jpg", Orientation=orientation, **tags)
    expected = photo.read(path)
    found = exif.read(path.read_bytes())
    assert found.fov == (pytest.approx(expected.fov, rel=1e-4) if expected.fov else None)
    image = bpy.data.images.load(str(path))
    opened = picture.from_image(image, View(fov=50))
    with Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file)) / 255
    np.testing.assert_allclose(opened.pixels, upright, atol=0.02)
    assert opened.source == "phöto.jpg"
    if expected.fov:
        assert picture.from_image(image, View()).view.fov == pytest.approx(expected.fov, rel=1e-4)
    else:
        with pytest.raises(SettingError, match="field of view"):
            picture.from_image(image, View())


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\x7f", b"\x89PNG"]
)
def test_no_exif_from_damaged_or_other_files(data: bytes) -> None:
    assert exif.read(data) == exif.Exif()


def test_light_is_clipped(scene) -> None:
    image = bpy.data.images.new("light", 20, 20, float_buffer=True, is_data=True)
    image.pixels.foreach_set(np.tile(np.float32([5, 0.2140411, -1, 1]), 400))
    opened = picture.from_image(image, View(fov=50))
    np.testing.assert_allclose(opened.pixels[0, 0], (1, 0.5, 0), atol=1e-5)


def camera(scene) -> bpy.types.Object:
    eye = bpy.data.objects.new("eye", bpy.data.cameras.new("eye"))
    scene.collection.objects.link(eye)
    scene.camera = eye
    return eye


@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
@pytest.mark.parametrize("fit", ["AUTO", "VERTICAL"])
def test_camera_view_matches_blenders_projection(size: tuple[int, int], fit: str, scene) -> None:
    """Compare with Blender's projection of the view's directions, as in backend/geometry/projection.py."""
    scene.render.resolution_x, scene.render.resolution_y = size
    eye = camera(scene)
    eye.data.sensor_fit = fit
    eye.rotation_euler, eye.location, eye.scale = (1.3, 0.2, 0.7), (3, 4, 5), (2, 2, 2)
    bpy.context.view_layer.update()
    view = picture.camera_view(scene)
    roll, pitch, yaw = (math.radians(angle) for angle in (view.roll, view.pitch, view.yaw))
    turn = Euler((roll, -pitch, yaw), "XYZ").to_matrix()
    right, up = math.tan(math.radians(view.fov) / 2), math.tan(math.radians(view.fov) / 2) * size[1] / size[0]
    for ray, position in (((1, 0, 0), (0.5, 0.5)), ((1, right, 0), (0, 0.5)), ((1, -right, up), (1, 1))):
        at = world_to_camera_view(scene, eye, eye.location + turn @ Vector(ray))
        assert tuple(at)[:2] == pytest.approx(position, abs=1e-4)


def test_unsupported_cameras_are_rejected(scene) -> None:
    with pytest.raises(SceneError, match="no camera"):
        picture.camera_view(scene)
    eye = camera(scene)
    eye.data.shift_x = 0.1
    with pytest.raises(SceneError, match="shifted"):
        picture.camera_view(scene)
    eye.data.type = "ORTHO"
    with pytest.raises(SceneError, match="not a perspective camera"):
        picture.camera_view(scene)
