"""Exposure of linear light to sRGB pictures, and its inverse."""

import numpy as np
import pytest

from panoform.backend.lighting.exposure import expose, unexpose
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sphere import solid_angles
from panoform.shared.protocol.errors import PanoramaError


@pytest.fixture
def scene():
    """Return random light over eleven stops, (64, 128, 3) float32."""
    rng = np.random.default_rng(3)
    return (2 ** rng.uniform(-8, 3, (64, 128, 3))).astype(np.float32)


def test_mean_is_exposed_to_middle_grey():
    picture, record = expose(np.full((32, 64, 3), 37.0, np.float32), "linear")
    np.testing.assert_allclose(linear_from_srgb(picture), 0.18, rtol=1e-4)
    assert record["exposure"] == pytest.approx(0.18 / 37)


def test_mean_is_geometric_and_weighted_by_solid_angle():
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 1, 1))
    panorama = np.broadcast_to(np.exp(rows), (64, 128, 3)).astype(np.float32)
    weights = solid_angles(64, 128)[:, 0]
    expected = 0.18 / np.exp((rows[:, 0, 0] * weights).sum() / weights.sum())
    assert expose(panorama, "linear")[1]["exposure"] == pytest.approx(expected, rel=0.01)


def test_exposure_does_not_depend_on_the_unit_of_light(scene):
    np.testing.assert_allclose(expose(scene * 1000, "linear")[0], expose(scene, "linear")[0], atol=1e-5)


def test_sun_and_black_pixels_hardly_change_the_exposure(scene):
    record = expose(scene, "linear")[1]
    changed = scene.copy()
    changed[10, 10] = 1e7
    changed[40, :20] = 0
    assert expose(changed, "linear")[1]["exposure"] == pytest.approx(record["exposure"], rel=0.03)


def test_unexpose_inverts_expose(scene):
    scene[5, 5] = 300.0
    picture, record = expose(scene, "linear")
    assert picture.dtype == np.float32
    assert 0 <= picture.min() <= picture.max() < 1
    np.testing.assert_allclose(unexpose(picture, record), scene, rtol=1e-3)


def test_picture_is_monotonic_in_light():
    ramp = np.broadcast_to(np.geomspace(1e-3, 1e8, 512)[None, :, None], (256, 512, 3)).astype(np.float32)
    picture, record = expose(ramp, "linear")
    assert (np.diff(picture[0, :, 0]) >= 0).all()
    assert np.isfinite(unexpose(picture, record)).all()


def test_slope_is_continuous_at_the_knee():
    around = np.broadcast_to(np.linspace(0.7, 0.9, 512)[None, :, None], (256, 512, 3)).astype(np.float32)
    picture, record = expose(around, "linear")
    slope = np.diff(linear_from_srgb(picture[0, :, 0].astype(np.float64))) / np.diff(around[0, :, 0].astype(np.float64))
    assert np.abs(np.diff(slope)).max() < 0.02 * record["exposure"] + 1e-3


def test_srgb_is_returned_unchanged(scene):
    picture, record = expose(scene.clip(0, 1), "srgb")
    assert record is None
    np.testing.assert_array_equal(picture, scene.clip(0, 1))


def test_black_panorama_is_rejected():
    with pytest.raises(PanoramaError, match="black everywhere"):
        expose(np.zeros((8, 16, 3), np.float32), "linear")


def test_single_lit_pixel_determines_the_exposure():
    panorama = np.zeros((8, 16, 3), np.float32)
    panorama[3, 3] = 5
    assert expose(panorama, "linear")[1]["exposure"] == pytest.approx(0.18 / 5)


def test_transfer_function_agrees_with_openimageio():
    import OpenImageIO as oiio

    linear = np.linspace(0, 1, 1024, dtype=np.float32).reshape(1, -1, 1).repeat(3, axis=2)
    expected = oiio.ImageBufAlgo.colorconvert(oiio.ImageBuf(linear), "lin_rec709", "srgb_rec709_scene")
    if expected.has_error:
        expected = oiio.ImageBufAlgo.colorconvert(oiio.ImageBuf(linear), "linear", "sRGB")
    np.testing.assert_allclose(srgb_from_linear(linear), expected.get_pixels(), atol=1e-4)
