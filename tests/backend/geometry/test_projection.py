"""Perspective pictures in a panorama, compared with Cycles' camera and with exact geometry."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest
from mathutils import Euler, Matrix

from panoform.backend.evaluation import seam_metrics
from panoform.backend.geometry import projection
from panoform.shared.imaging import sphere
from panoform.shared.protocol.errors import SettingError

POSES = [
    (0, 0, 0),
    (90, 0, 0),
    (180, 0, 0),
    (-60, 0, 0),
    (0, 50, 0),
    (0, -50, 0),
    (0, 0, 30),
    (130, -35, -75),
    (20, 60, 10),
]


def colours(rays: np.ndarray) -> np.ndarray:
    """Return a smooth picture without symmetries, in which each direction can be recognised."""
    x, y, z = np.moveaxis(rays.astype(np.float64), -1, 0)
    bands = 0.1 * np.stack([np.sin(5 * x + 2 * z), np.cos(4 * y - z), np.sin(6 * z + 3 * y)], -1)
    return (np.stack([x, y, z], -1) * 0.3 + 0.5 + bands).astype(np.float32)


def cycles_view(panorama: np.ndarray, height: int, width: int, fov: float, pose, tmp_path) -> np.ndarray:
    """Render the panorama, as Blender's world, with a perspective camera in Cycles."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene = bpy.context.scene
    h, w, _ = panorama.shape
    image = bpy.data.images.new("panorama", w, h, float_buffer=True, is_data=True)
    image.pixels.foreach_set(np.concatenate([panorama, np.ones((h, w, 1), np.float32)], -1)[::-1].ravel())
    image.pack()
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    texture = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    world.node_tree.links.new(texture.outputs[0], world.node_tree.nodes["Background"].inputs[0])
    world.cycles.sampling_method = "NONE"
    scene.world = world

    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.sensor_fit = "HORIZONTAL"
    camera.data.angle = math.radians(fov)
    # Blender's camera looks along its −Z with its top towards +Y. It is rotated to look along +X with its top towards
    # +Z, then rolled, pitched and yawed.
    yaw, pitch, roll = (math.radians(angle) for angle in pose)
    upright = Euler((math.pi / 2, 0, -math.pi / 2)).to_matrix()
    turned = Matrix.Rotation(yaw, 3, "Z") @ Matrix.Rotation(-pitch, 3, "Y") @ Matrix.Rotation(roll, 3, "X")
    camera.matrix_world = (turned @ upright).to_4x4()

    scene.render.engine = "CYCLES"
    scene.cycles.samples = 16
    scene.cycles.use_denoising = False
    scene.cycles.pixel_filter_type = "BOX"
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    scene.render.filepath = str(tmp_path / "view.exr")
    bpy.ops.render.render(write_still=True)
    image_of_view = bpy.data.images.load(str(tmp_path / "view.exr"))
    image_of_view.colorspace_settings.name = "Non-Color"
    pixels = np.empty(height * width * 4, np.float32)
    image_of_view.pixels.foreach_get(pixels)
    return pixels.reshape(height, width, 4)[::-1, :, :3]


@pytest.fixture(scope="module")
def panorama() -> np.ndarray:
    return colours(sphere.directions(256, 512))


@pytest.mark.parametrize("pose", POSES)
def test_view_equals_a_render_by_blenders_camera(panorama, pose, tmp_path):
    yaw, pitch, roll = pose
    ours = projection.picture_from_panorama(panorama, 48, 64, 70, yaw=yaw, pitch=pitch, roll=roll)
    assert np.abs(ours - cycles_view(panorama, 48, 64, 70, pose, tmp_path)).max() < 0.01


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("fov", [40, 90, 150])
def test_picture_is_projected_back_to_its_position(panorama, fov, pose):
    yaw, pitch, roll = pose
    angles = {"yaw": yaw, "pitch": pitch, "roll": roll}
    picture = projection.picture_from_panorama(panorama, 300, 400, fov, **angles)
    canvas, coverage = projection.panorama_from_picture(picture, 128, fov, **angles)
    truth = colours(sphere.directions(128, 256))
    assert np.abs(canvas - truth)[coverage].max() < 0.02
    assert (canvas[~coverage] == projection.GREY).all()


def test_coverage_equals_the_solid_angle_of_the_field_of_view():
    fov_x, fov_y = math.radians(65), 2 * math.atan(math.tan(math.radians(65) / 2) * 3 / 4)
    _, coverage = projection.panorama_from_picture(np.ones((75, 100, 3), np.float32), 256, 65, yaw=170, pitch=20)
    covered = (coverage * sphere.solid_angles(256, 512)).sum()
    exact = 4 * math.asin(math.sin(fov_x / 2) * math.sin(fov_y / 2))  # of a rectangular pyramid
    assert exact * 0.96 < covered <= exact


@pytest.mark.slow
def test_detail_finer_than_a_pixel_is_averaged():
    checks = np.indices((2000, 2000)).sum(0) % 2
    picture = np.repeat(checks[..., None].astype(np.float32), 3, -1)
    canvas, coverage = projection.panorama_from_picture(picture, 64, 90)
    assert np.abs(canvas[coverage] - 0.5).max() < 0.02
    fine = np.repeat((np.indices((1024, 2048)).sum(0) % 2)[..., None].astype(np.float32), 3, -1)
    assert np.abs(projection.picture_from_panorama(fine, 32, 32, 60) - 0.5).max() < 0.02


def test_picture_across_the_seam_is_continuous():
    panorama = colours(sphere.directions(128, 256))
    canvas, coverage = projection.panorama_from_picture(
        projection.picture_from_panorama(panorama, 200, 200, 120, yaw=180), 128, 120, yaw=180
    )
    assert coverage[64, [0, -1]].all()
    assert not coverage[64, 128]
    assert np.abs(canvas - panorama)[coverage].max() < 0.02


@pytest.mark.parametrize("fov", [0, -20, 4.9, 171, 180, 360, float("nan")])
def test_invalid_field_of_view_is_rejected(fov):
    with pytest.raises(SettingError, match="field of view"):
        projection.panorama_from_picture(np.zeros((4, 4, 3), np.float32), 32, fov)
    with pytest.raises(SettingError, match="field of view"):
        projection.picture_from_panorama(np.zeros((4, 8, 3), np.float32), 4, 4, fov)


def test_limit_poles_removes_streaks_and_keeps_the_equator():
    rng = np.random.default_rng(0)
    noisy = np.repeat(rng.random((1, 256, 3)), 128, 0) + 0.1 * rng.random((128, 256, 3))  # stripes from pole to pole
    assert min(seam_metrics.poles(noisy)) > 0.9
    limited = projection.limit_poles(noisy)
    assert max(seam_metrics.poles(limited)) < 0.15
    assert np.abs(limited - noisy)[60:68].max() < 5e-3
    assert np.abs(limited.mean(axis=1) - noisy.mean(axis=1)).max() < 1e-5


def test_limit_poles_commutes_with_rolling():
    panorama = np.random.default_rng(1).random((32, 64, 3))
    turned = projection.limit_poles(np.roll(panorama, 5, axis=1))
    assert np.abs(turned - np.roll(projection.limit_poles(panorama), 5, axis=1)).max() < 1e-5
