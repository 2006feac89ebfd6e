"""Reading, checking and resizing panoramas."""

from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.io import panoramas
from panoform.shared.imaging.sphere import solid_angles
from panoform.shared.protocol.errors import PanoramaError


def save(path, pixels, depth="float", names=None):
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], depth)
    if names:
        spec.channelnames = names
    if path.suffix in {".jpg", ".webp"}:
        spec.attribute("compression", "jpeg:100" if path.suffix == ".jpg" else "lossless:100")
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), output.geterror()
    assert output.write_image(pixels.astype(np.float32)), output.geterror()
    output.close()
    return path


@pytest.fixture
def ramp():
    """Return a smooth picture, (32, 64, 3) in [0, 1], different in each channel."""
    v, u = np.mgrid[0:32, 0:64].astype(np.float32) / 64
    return np.stack([u, 2 * v, 1 - u], axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "depth", "encoding", "tolerance"),
    [
        ("a.exr", "half", "linear", 1e-3),
        ("a.exr", "float", "linear", 0),
        ("a.hdr", "float", "linear", 1e-2),
        ("a.tif", "float", "linear", 0),
        ("a.tif", "uint16", "srgb", 1e-4),
        ("a.png", "uint8", "srgb", 3e-3),
        ("a.png", "uint16", "srgb", 1e-4),
        ("a.jpg", "uint8", "srgb", 5e-2),
        ("a.webp", "uint8", "srgb", 3e-3),
        ("ein Wald, 森 ñ.exr", "float", "linear", 0),
    ],
)
def test_every_format_is_read_with_its_encoding(tmp_path, ramp, name, depth, encoding, tolerance):
    panorama, found = panoramas.read(save(tmp_path / name, ramp, depth))
    assert found == encoding
    assert panorama.dtype == np.float32
    assert panorama.shape == (32, 64, 3)
    np.testing.assert_allclose(panorama, ramp, atol=tolerance)


def test_values_above_one_are_kept(tmp_path, ramp):
    panorama, _ = panoramas.read(save(tmp_path / "sun.exr", ramp * 5000))
    np.testing.assert_array_equal(panorama, ramp * 5000)


@pytest.mark.parametrize(
    "names",
    [
        ["B", "G", "R"],
        ["View Layer.Combined.B", "View Layer.Combined.G", "View Layer.Combined.R"],
        [
            "Depth.V",
            "Layer.Albedo.B",
            "Layer.Albedo.G",
            "Layer.Albedo.R",
            "Layer.Combined.B",
            "Layer.Combined.G",
            "Layer.Combined.R",
        ],
    ],
)
def test_channels_are_found_by_name_in_any_order(tmp_path, ramp, names):
    pixels = np.full((32, 64, len(names)), 0.5, np.float32)
    pixels[..., -3:] = ramp[..., ::-1]
    panorama, _ = panoramas.read(save(tmp_path / "layers.exr", pixels, names=names))
    np.testing.assert_array_equal(panorama, ramp)


def test_first_part_with_colour_is_read(tmp_path, ramp):
    path = tmp_path / "parts.exr"
    depth, colour = oiio.ImageSpec(64, 32, 1, "float"), oiio.ImageSpec(64, 32, 3, "float")
    depth.channelnames = ["Z"]
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), (depth, colour)), output.geterror()
    output.write_image(np.ones((32, 64, 1), np.float32))
    assert output.open(str(path), colour, "AppendSubimage")
    output.write_image(ramp)
    output.close()
    np.testing.assert_array_equal(panoramas.read(path)[0], ramp)


def test_opaque_alpha_is_dropped(tmp_path, ramp):
    rgba = np.concatenate([ramp, np.ones((32, 64, 1), np.float32)], axis=-1)
    np.testing.assert_array_equal(panoramas.read(save(tmp_path / "a.exr", rgba))[0], ramp)


def test_aspect_within_one_percent_is_resized_to_two_to_one(tmp_path):
    panorama, _ = panoramas.read(save(tmp_path / "a.exr", np.full((101, 200, 3), 0.5, np.float32)))
    assert panorama.shape == (100, 200, 3)
    np.testing.assert_allclose(panorama, 0.5, rtol=1e-6)


# Invalid input


def assert_rejected(path_or_pixels, message, encoding="linear", **options):
    """Assert that reading raises a PanoramaError that matches `message` and has a hint; return it."""

    def load():
        if isinstance(path_or_pixels, np.ndarray):
            panoramas.check(path_or_pixels, encoding, **options)
        else:
            panoramas.read(path_or_pixels, **options)

    with pytest.raises(PanoramaError, match=message) as caught:
        load()
    assert caught.value.hint
    return caught.value


def test_other_aspect_is_rejected():
    error = assert_rejected(np.ones((64, 64, 3), np.float32), "64 × 64, not 2:1")
    assert "128 × 64" in error.hint


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 2, 3), (1, 0, 3)])
def test_empty_array_is_rejected(shape):
    assert_rejected(np.ones(shape, np.float32), "empty")


def test_empty_file_is_rejected(tmp_path):
    (tmp_path / "a.png").touch()
    assert_rejected(tmp_path / "a.png", "is empty")


def test_one_channel_array_is_rejected():
    assert_rejected(np.ones((8, 16, 1), np.float32), "1 channel per pixel")


def test_one_channel_file_is_rejected(tmp_path):
    assert_rejected(save(tmp_path / "grey.png", np.ones((8, 16, 1)), "uint8"), "one channel")


def test_file_without_colour_channels_is_rejected(tmp_path):
    assert_rejected(save(tmp_path / "z.exr", np.ones((8, 16, 2)), names=["X", "Z"]), "no colour: its channels are X, Z")


def test_transparent_pixels_are_rejected():
    pixels = np.ones((8, 16, 4), np.float32)
    pixels[0, :3, 3] = 0
    pixels[1, 0, 3] = np.nan
    assert_rejected(pixels, "4 of 128 pixels are transparent")


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "1 not a number"), (np.inf, "1 infinite"), (-0.5, "1 negative")]
)
def test_invalid_pixels_are_counted_and_located(value, message):
    pixels = np.ones((8, 16, 3), np.float32)
    pixels[2, 5, 1] = value
    error = assert_rejected(pixels, message)
    assert "column 5, row 2" in error.message
    assert "--repair" in error.hint


def test_colour_outside_rec709_is_clipped_to_zero():
    pixels = np.ones((8, 16, 3), np.float32)
    pixels[2, 5] = -0.2, 0.5, 1
    assert panoramas.check(pixels, "linear")[2, 5].tolist() == [0, 0.5, 1]
    pixels[2, 5] = -0.26, 0.5, 1
    assert_rejected(pixels, "1 negative")
    pixels[2, 5] = -1e-3
    assert_rejected(pixels, "1 negative")


@pytest.mark.parametrize("name", ["city", "courtyard", "forest", "interior", "night", "studio", "sunrise", "sunset"])
def test_hdris_of_blender_are_read(name):
    bpy = pytest.importorskip("bpy")
    folder = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"
    panorama, encoding = panoramas.read(folder / f"{name}.exr")
    assert encoding == "linear"
    assert panorama.shape == (512, 1024, 3)
    assert panorama.min() >= 0


def test_repair_replaces_invalid_pixels():
    pixels = np.full((8, 16, 3), 7, np.float32)
    pixels[0, :4, 0] = np.nan, np.inf, -np.inf, -1
    repaired = panoramas.check(pixels, "linear", repair=True)
    assert repaired[0, :4, 0].tolist() == [0, 7, 0, 0]
    assert np.array_equal(repaired[1:], pixels[1:])


def test_srgb_above_one_is_rejected():
    assert_rejected(np.full((8, 16, 3), 1.5, np.float32), "largest value is 1.5", encoding="srgb")


def test_too_wide_file_is_rejected_before_its_pixels_are_read(tmp_path):
    # The header states 20000 × 10000, but the pixels are missing: reading them would raise another error.
    path = save(tmp_path / "wide.png", np.zeros((8, 16, 3)), "uint8")
    data = bytearray(path.read_bytes())
    import struct
    import zlib

    data[16:24] = struct.pack(">II", 20000, 10000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    assert_rejected(path, "20000 × 10000; at most 16384 pixels per side")


def test_missing_file_is_rejected(tmp_path):
    assert_rejected(tmp_path / "nowhere.exr", "There is no file")


def test_folder_is_rejected(tmp_path):
    assert_rejected(tmp_path, "There is no file")


def test_file_that_is_not_an_image_is_rejected(tmp_path):
    (tmp_path / "a.png").write_text("hello", encoding="utf-8")
    assert_rejected(tmp_path / "a.png", "can't be read")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("a.exr", "float"),
        ("a.png", "uint8"),
        ("a.hdr", "float"),
        ("a.tif", "uint8"),
        ("a.jpg", "uint8"),
        ("a.webp", "uint8"),
    ],
)
def test_truncated_file_is_rejected(tmp_path, name, depth):
    noise = np.random.default_rng(0).random((64, 128, 3))
    path = save(tmp_path / name, noise, depth)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_rejected(path, "damaged|can't be read")


# Resizing


def total_light(panorama):
    """Return the integral over the sphere, (C,)."""
    return (panorama * solid_angles(*panorama.shape[:2])[..., None]).sum(axis=(0, 1))


def test_resize_keeps_the_light_of_a_one_pixel_sun():
    for column in range(500, 520):
        panorama = np.zeros((256, 512, 3), np.float32)
        panorama[100, column % 512] = 1e5
        small = panoramas.resize(panorama, 32)
        assert small.min() >= 0
        np.testing.assert_allclose(total_light(small), total_light(panorama), rtol=0.02)


def test_resize_wraps_around():
    panorama = np.random.default_rng(0).random((32, 64, 3)).astype(np.float32)
    turned = panoramas.resize(np.roll(panorama, 16, axis=1), 16)
    np.testing.assert_allclose(turned, np.roll(panoramas.resize(panorama, 16), 8, axis=1), atol=1e-6)
    assert np.abs(turned - panoramas.resize(panorama, 16)).max() > 0.1


@pytest.mark.parametrize("height", [8, 24, 32, 100])
def test_resize_keeps_a_smooth_picture(height):
    def waves(height):
        lon = (np.arange(2 * height) + 0.5) / height * np.pi
        return np.repeat(np.broadcast_to(np.sin(lon), (height, 2 * height))[..., None], 3, axis=-1).astype(np.float32)

    np.testing.assert_allclose(panoramas.resize(waves(32), height), waves(height), atol=0.06)


def test_resize_averages_a_chequerboard():
    board = np.indices((128, 256)).sum(axis=0)[..., None] % 2 * np.ones(3)
    np.testing.assert_allclose(panoramas.resize(board.astype(np.float32), 16), 0.5, atol=0.01)


@pytest.mark.parametrize("name", ["forest", "interior", "night"])
def test_reading_hdris_changes_only_colours_outside_rec709(name):
    bpy = pytest.importorskip("bpy")
    path = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world" / f"{name}.exr"
    raw = oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT)[..., :3]
    assert raw.min() < 0, "the file has no colours outside Rec.709"
    panorama, encoding = panoramas.read(path)
    assert encoding == "linear"
    np.testing.assert_array_equal(panorama, np.maximum(raw, 0))
