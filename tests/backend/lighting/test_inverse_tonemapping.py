"""Inverse tone mapping of real HDRIs that are clipped on purpose, and of synthetic skies."""

from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.io import panoramas
from panoform.backend.io.encoding import encode_image
from panoform.backend.lighting import clipped_regions, inverse_tonemapping
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sphere import directions, solid_angles
from panoform.shared.imaging.sun import split_sun
from panoform.shared.protocol.errors import PanoramaError, SettingError

HEIGHT, WIDTH = 128, 256
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def to_picture(light: np.ndarray) -> np.ndarray:
    return (np.round(srgb_from_linear(np.clip(light, 0, 1)) * 255) / 255).astype(np.float32)


def irradiance_of(normal: np.ndarray, panorama: np.ndarray) -> np.ndarray:
    """Return the irradiance of a surface with this normal, (3,)."""
    height, width = panorama.shape[:2]
    weight = np.maximum(directions(height, width).astype(np.float64) @ normal, 0) * solid_angles(height, width)
    return np.tensordot(weight, panorama.astype(np.float64), 2)


def outdoors(azimuth_rad: float = 0.7, elevation_rad: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Return (a linear panorama of a sky, its sun, and the ground lit by both; the direction of the sun).

    As on a clear day, the sun's irradiance is about four times that of the whole sky; the ground's albedo is 0.2.
    """
    rays = directions(HEIGHT, WIDTH).astype(np.float64)
    cos_elevation = np.cos(elevation_rad)
    sun = np.array([cos_elevation * np.cos(azimuth_rad), cos_elevation * np.sin(azimuth_rad), np.sin(elevation_rad)])
    angle = np.arccos(np.clip(rays @ sun, -1, 1))
    sky = 0.25 + 0.9 * np.exp(-angle / 0.35) + 1200 * (angle < np.radians(2))
    light = np.where(rays[..., 2] > 0, sky, 0)[..., None] * np.array([0.9, 1.0, 1.1])
    ground = 0.2 * irradiance_of(np.array([0, 0, 1.0]), light) / np.pi
    return np.where(rays[..., 2:] > 0, light, ground), sun


@pytest.fixture(scope="module", params=["city", "courtyard", "interior", "night", "sunrise", "sunset"])
def real(request: pytest.FixtureRequest) -> np.ndarray:
    """Return a real panorama, (512, 1024, 3), scaled to a median luminance of 0.35; 1 is the clipping point."""
    bpy = pytest.importorskip("bpy")
    world = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"
    light = np.maximum(oiio.ImageBuf(str(world / f"{request.param}.exr")).get_pixels(oiio.FLOAT)[..., :3], 0)
    return light * 0.35 / np.median(light @ LUMINANCE)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return to_picture(outdoors()[0])


@pytest.mark.slow
def test_reconstruction_reduces_the_irradiance_error(real: np.ndarray, request: pytest.FixtureRequest) -> None:
    picture = to_picture(real)
    normals = directions(4, 8).reshape(-1, 3)
    true, plain, reconstructed = (
        np.array([irradiance_of(normal, light) @ LUMINANCE for normal in normals])
        for light in (real, linear_from_srgb(picture), inverse_tonemapping.reconstruct(picture))
    )
    error, error_plain = (np.mean(np.abs(got - true) / true) for got in (reconstructed, plain))
    if "sunset" in request.node.callspec.id:  # loses the least light, and must not become too bright
        assert error < 0.5
    else:
        assert error < 0.85 * error_plain


def test_unclipped_pixels_are_only_linearised(picture: np.ndarray) -> None:
    clipped = (picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1)
    assert 0 < clipped.mean() < 0.2
    reconstructed, plain = (
        inverse_tonemapping.reconstruct(picture),
        linear_from_srgb(picture.astype(np.float64)).astype(np.float32),
    )
    assert np.array_equal(reconstructed[~clipped], plain[~clipped])
    assert (reconstructed[clipped] >= plain[clipped]).all()
    assert reconstructed.max() > 10
    assert reconstructed.dtype == np.float32


def test_picture_without_clipped_pixels_is_only_linearised(picture: np.ndarray) -> None:
    dimmed = picture * np.float32(0.9)
    assert np.array_equal(
        inverse_tonemapping.reconstruct(dimmed), linear_from_srgb(dimmed.astype(np.float64)).astype(np.float32)
    )


@pytest.mark.parametrize("columns", [1, 37, WIDTH // 2])
def test_reconstruction_commutes_with_rolling(columns: int) -> None:
    # In one case the sun lies on the seam.
    picture = to_picture(outdoors(azimuth_rad=np.pi)[0])
    turned = inverse_tonemapping.reconstruct(np.roll(picture, columns, axis=1))
    np.testing.assert_allclose(
        turned, np.roll(inverse_tonemapping.reconstruct(picture), columns, axis=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.7, 0.6), (np.pi, 0.9), (-2.0, 0.15)])
def test_reconstructed_sun_has_the_true_direction_and_strength(azimuth: float, elevation: float) -> None:
    light, direction = outdoors(azimuth, elevation)
    reconstructed = inverse_tonemapping.reconstruct(to_picture(light))
    _, sun = split_sun(reconstructed)
    assert sun is not None
    assert np.degrees(np.arccos(sun.direction @ direction)) < 6
    true = (irradiance_of(direction, light) - irradiance_of(direction, linear_from_srgb(to_picture(light)))) @ LUMINANCE
    assert sun.irradiance < true * 3
    # Neither the ground nor its size indicates the strength of a low sun: it is estimated too dim (bench/hdr.py).
    assert sun.irradiance > (true / 3 if elevation > 0.5 else 0)


def test_reconstructed_sun_has_the_colour_of_its_aureole_but_is_never_blue() -> None:
    light, _ = outdoors()
    for tint in ((1.0, 0.7, 0.4), (0.6, 0.8, 1.0)):
        _, sun = split_sun(inverse_tonemapping.reconstruct(to_picture(light * tint)))
        assert sun is not None
        if tint[0] == 1:
            assert 1 == sun.colour[0] > sun.colour[1] + 0.03 > sun.colour[2] + 0.06
        else:
            assert sun.colour == pytest.approx(np.ones(3), abs=0.03)


def test_split_sun_and_remainder_give_the_same_irradiance() -> None:
    light, direction = outdoors()
    rest, sun = split_sun(light.astype(np.float32))
    assert sun is not None
    assert np.degrees(np.arccos(min(1, sun.direction @ direction))) < 0.5
    assert np.degrees(sun.diameter_rad) == pytest.approx(4, rel=0.25)
    assert sun.colour == pytest.approx(np.array([0.9, 1.0, 1.1]) / 1.1, rel=0.01)
    assert rest.max() < 2
    for normal in (direction, np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), np.array([-0.6, 0, 0.8])):
        together = irradiance_of(normal, rest) + sun.irradiance * sun.colour * max(normal @ sun.direction, 0)
        assert together == pytest.approx(irradiance_of(normal, light), rel=0.005)


def test_uniform_sky_has_no_sun() -> None:
    light = np.broadcast_to(np.linspace(2, 0.1, HEIGHT, dtype=np.float32)[:, None, None], (HEIGHT, WIDTH, 3))
    rest, sun = split_sun(light)
    assert sun is None
    assert np.array_equal(rest, light)


def test_sun_strength_scales_only_the_sun(picture: np.ndarray) -> None:
    none, once, twice = (
        inverse_tonemapping.reconstruct(picture, sun_strength=strength).astype(np.float64) for strength in (0, 1, 2)
    )
    np.testing.assert_allclose(twice - once, once - none, rtol=1e-4, atol=1e-4)
    assert (once - none).max() > 10
    assert none.max() < 10


def test_regions_do_not_depend_on_the_resolution(picture: np.ndarray) -> None:
    small = clipped_regions.find(linear_from_srgb(picture.astype(np.float64)), (picture >= np.float32(0.98)).all(-1))
    double = picture.repeat(2, axis=0).repeat(2, axis=1)
    large = clipped_regions.find(linear_from_srgb(double.astype(np.float64)), (double >= np.float32(0.98)).all(-1))
    assert small.size.shape == (1,)
    for name in set(clipped_regions.Clipped._fields) - {"region", "ray", "solid", "depth_rad"}:
        np.testing.assert_allclose(getattr(large, name), getattr(small, name), rtol=0.3, atol=0.01, err_msg=name)


def test_light_is_stored_unchanged_in_an_exr(picture: np.ndarray, tmp_path: Path) -> None:
    reconstructed = inverse_tonemapping.reconstruct(picture)
    path = tmp_path / "Licht für später.exr"
    path.write_bytes(encode_image(path.name, reconstructed, "Linear"))
    read, encoding = panoramas.read(path)
    assert encoding == "linear"
    assert read.dtype == np.float32
    assert np.array_equal(read, reconstructed)


def test_lower_threshold_finds_a_grey_sun(picture: np.ndarray) -> None:
    grey = np.minimum(picture, np.float32(0.93))
    assert inverse_tonemapping.reconstruct(grey).max() <= 1
    assert inverse_tonemapping.reconstruct(grey, threshold=0.92).max() > 10


def test_fully_clipped_picture_and_invalid_settings_are_rejected(picture: np.ndarray) -> None:
    with pytest.raises(PanoramaError):
        inverse_tonemapping.reconstruct(np.ones((HEIGHT, WIDTH, 3), np.float32))
    for settings in ({"sun_strength": -1.0}, {"sun_strength": np.nan}, {"threshold": 0.0}, {"threshold": 1.1}):
        with pytest.raises(SettingError):
            inverse_tonemapping.reconstruct(picture, **settings)
