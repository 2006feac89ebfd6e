"""Folders of maps: Panoform's, a user's, and damaged ones. Files are written by OpenImageIO, not by Blender."""

import json
from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import pytest

from panoform.blender_addon.capture import pixels
from panoform.blender_addon.scene import maps_folder
from panoform.shared.imaging import sphere
from panoform.shared.maps import MAPS
from panoform.shared.protocol.errors import InputError, PanoramaError

RAYS = sphere.directions(16, 32)
DISTANCE = (1 + 0.5 * RAYS[..., :1]).astype(np.float32)
NORMAL = -RAYS
COLOUR = (0.5 + 0.4 * RAYS).astype(np.float32)


def full(folder: Path) -> None:
    cycles.write(folder / "distance.exr", DISTANCE)
    cycles.write(folder / "normal.exr", NORMAL)
    cycles.write(folder / "albedo.png", COLOUR, "uint16")
    cycles.write(folder / "roughness.png", COLOUR[..., :1], "uint16")
    cycles.write(folder / "metallic.png", COLOUR[..., 1:2], "uint16")
    cycles.write(folder / "semantic.png", COLOUR, "uint8")
    cycles.write(folder / "panorama.png", COLOUR, "uint16")


def values(image: bpy.types.Image) -> np.ndarray:
    """Return the values of an image, (H, W, 4) float32, in its colour space; it must be packed."""
    assert image.packed_file
    image.colorspace_settings.name = "Non-Color"
    return pixels.raw(image)


def test_panoform_folder(scene, tmp_path):
    folder = tmp_path / "mit Leerzeichen, ü"
    folder.mkdir()
    full(folder)
    found = maps_folder.read(folder)
    assert list(found.maps) == ["distance", "normal", "albedo", "roughness", "metallic", "semantic"]
    for name, image in (*found.maps.items(), ("panorama", found.panorama)):
        filename = MAPS[name].filename if name in MAPS else "panorama.png"
        assert image.packed_file.data == (folder / filename).read_bytes()
        assert image.colorspace_settings.name == (MAPS[name].colorspace if name in MAPS else "sRGB")
    np.testing.assert_array_equal(values(found.maps["distance"])[..., :1], DISTANCE)
    np.testing.assert_array_equal(values(found.maps["normal"])[..., :3], NORMAL)
    half = 0.51 / 65535
    np.testing.assert_allclose(values(found.maps["albedo"])[..., :3], COLOUR, atol=half)
    np.testing.assert_allclose(values(found.maps["roughness"])[..., :1], COLOUR[..., :1], atol=half)
    np.testing.assert_allclose(values(found.maps["metallic"])[..., :1], COLOUR[..., 1:2], atol=half)
    np.testing.assert_allclose(values(found.maps["semantic"])[..., :3], COLOUR, atol=0.51 / 255)
    np.testing.assert_allclose(values(found.panorama)[..., :3], COLOUR, atol=half)
    assert found.info is None
    assert len(bpy.data.images) == 7


@pytest.mark.parametrize(
    ("filename", "kind"),
    [("distance.png", "uint8"), ("Distance.PNG", "uint16"), ("distance.tif", "float"), ("distance.hdr", "float"),
     ("distance.jpg", "uint8"), ("distance.tif", "uint16")],
)  # fmt: skip
def test_distance_in_other_formats(scene, tmp_path, filename, kind):
    cycles.write(tmp_path / filename, DISTANCE.repeat(3, axis=-1) / 2, kind)
    found = values(maps_folder.read(tmp_path).maps["distance"])[..., :3]
    np.testing.assert_allclose(found, DISTANCE.repeat(3, axis=-1) / 2, atol=0.01)


@pytest.mark.parametrize("channel", ["Y", "R", "V"])
def test_one_channel_exrs_by_usual_channel_names(scene, tmp_path, channel):
    import OpenImageIO as oiio

    out = oiio.ImageOutput.create(str(tmp_path / "distance.exr"))
    spec = oiio.ImageSpec(32, 16, 1, "float")
    spec.channelnames = (channel,)
    out.open(str(tmp_path / "distance.exr"), spec)
    out.write_image(DISTANCE)
    out.close()
    found = values(maps_folder.read(tmp_path).maps["distance"])
    np.testing.assert_array_equal(found[..., :3], DISTANCE.repeat(3, axis=-1))


def test_the_first_of_different_channels_is_the_distance(scene, tmp_path):
    cycles.write(tmp_path / "distance.exr", np.concatenate([DISTANCE, DISTANCE * 2, DISTANCE * 3], axis=-1))
    found = values(maps_folder.read(tmp_path).maps["distance"])
    np.testing.assert_array_equal(found[..., :3], DISTANCE.repeat(3, axis=-1))


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_an_alpha_channel_is_ignored(scene, tmp_path, kind):
    cycles.write(tmp_path / "albedo.png", np.concatenate([COLOUR * 0.4, 0 * DISTANCE + 0.4], axis=-1), kind)
    found = values(maps_folder.read(tmp_path).maps["albedo"])
    np.testing.assert_allclose(found[..., :3], COLOUR, atol=2 / 255)  # OpenImageIO divides by alpha after rounding
    assert (found[..., 3] == 1).all()


def test_values_out_of_range_are_clipped(scene, tmp_path):
    cycles.write(tmp_path / "roughness.exr", DISTANCE)
    found = maps_folder.read(tmp_path).maps["roughness"]
    np.testing.assert_array_equal(values(found)[..., :1], np.minimum(DISTANCE, 1))


@pytest.mark.parametrize(
    ("filename", "kind", "tolerance"), [("normal.png", "uint8", 0.01), ("normal.tif", "uint16", 1e-4)]
)
def test_normals_of_integer_files_are_halved_and_shifted(scene, tmp_path, filename, kind, tolerance):
    cycles.write(tmp_path / filename, NORMAL * 0.5 + 0.5, kind)
    found = values(maps_folder.read(tmp_path).maps["normal"])[..., :3]
    np.testing.assert_allclose(found, NORMAL, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)


def test_normals_of_an_exr_without_negative_values_are_halved_and_shifted(scene, tmp_path):
    cycles.write(tmp_path / "normal.exr", NORMAL * 0.5 + 0.5)
    found = values(maps_folder.read(tmp_path).maps["normal"])[..., :3]
    np.testing.assert_allclose(found, NORMAL, atol=1e-5)


def test_colour_in_float_files_is_linear(scene, tmp_path):
    linear = np.where(COLOUR <= 0.04045, COLOUR / 12.92, ((COLOUR + 0.055) / 1.055) ** 2.4)
    cycles.write(tmp_path / "albedo.exr", linear)
    cycles.write(tmp_path / "panorama.exr", linear * 30)
    found = maps_folder.read(tmp_path)
    assert found.maps["albedo"].colorspace_settings.name == "Linear Rec.709"
    np.testing.assert_array_equal(values(found.maps["albedo"])[..., :3], linear.astype(np.float32))
    assert found.panorama.colorspace_settings.name == "Linear Rec.709"
    np.testing.assert_allclose(values(found.panorama)[..., :3], linear * 30, rtol=1e-6)


def test_sky_gets_the_largest_finite_distance(scene, tmp_path):
    distance = DISTANCE.copy()
    distance[0], distance[1] = 1e10, np.inf
    cycles.write(tmp_path / "distance.exr", distance)
    found = values(maps_folder.read(tmp_path).maps["distance"])[..., :1]
    assert (found[:2] == DISTANCE[2:].max()).all()
    np.testing.assert_array_equal(found[2:], DISTANCE[2:])


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_invalid_distances(scene, tmp_path, wrong):
    distance = DISTANCE.copy()
    distance[3, 3] = wrong
    cycles.write(tmp_path / "distance.exr", distance)
    with pytest.raises(PanoramaError, match=r"distance\.exr"):
        maps_folder.read(tmp_path)


def test_invalid_normals(scene, tmp_path):
    normal = NORMAL.copy()
    normal[3, 3] = np.nan
    cycles.write(tmp_path / "normal.exr", normal)
    cycles.write(tmp_path / "distance.exr", DISTANCE)
    with pytest.raises(PanoramaError, match=r"normal\.exr"):
        maps_folder.read(tmp_path)
    assert not bpy.data.images


def test_missing_empty_and_ambiguous_folders(scene, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        maps_folder.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no map"):
        maps_folder.read(tmp_path)
    cycles.write(tmp_path / "albedo.jpg", COLOUR, "uint8")
    cycles.write(tmp_path / "albedo.tif", COLOUR, "uint8")
    with pytest.raises(InputError, match=r"albedo\.jpg and albedo\.tif"):
        maps_folder.read(tmp_path)
    cycles.write(tmp_path / "albedo.png", COLOUR, "uint8")
    assert list(maps_folder.read(tmp_path).maps) == ["albedo"]


def test_damaged_files(scene, tmp_path):
    (tmp_path / "albedo.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(PanoramaError, match=r"albedo\.png can't be read") as error:
        maps_folder.read(tmp_path)
    assert error.value.hint
    assert not bpy.data.images


def test_other_aspect_ratios_are_rejected(scene, tmp_path):
    cycles.write(tmp_path / "albedo.png", np.ones((20, 30, 3)), "uint8")
    with pytest.raises(PanoramaError, match="30 × 20 px, not 2:1"):
        maps_folder.read(tmp_path)


def test_info(scene, tmp_path):
    full(tmp_path)
    record = {
        "panoform": "0.1.0", "engine": "starter", "model": "m", "adapters": "a", "notice": "", "maps": {}, "frame": "",
        "source": "s", "source_size": [16, 32], "size": [16, 32], "exposure": None, "seed": 7,
        "num_inference_steps": 1, "guidance_scale": 1.0, "device": "cpu", "dtype": "fp32",
        "seconds": {}, "versions": {},
    }  # fmt: skip
    (tmp_path / "maps.json").write_text(json.dumps(record))
    assert maps_folder.read(tmp_path).info.seed == 7
    for damaged in (b"{", b'{"panoform": "\xff"}', b"[" * 100_000):
        (tmp_path / "maps.json").write_bytes(damaged)
        with pytest.raises(InputError, match=r"maps\.json"):
            maps_folder.read(tmp_path)
    (tmp_path / "maps.json").write_text(json.dumps(record | {"floor": [0.0, 0.6, 0.8, 1.5]}))
    assert maps_folder.read(tmp_path).info.floor == (0, 0.6, 0.8, 1.5)
    for floor in ([0, 0, 1, 0], [0, 0, 1, -1], [0, 0, -1, 1], [0, 0, 0, 1], [1e300, 0, 1, 1], [0, 0, 1, 1e300]):
        (tmp_path / "maps.json").write_text(json.dumps(record | {"floor": floor}))
        with pytest.raises(InputError, match="its floor is not a plane"):
            maps_folder.read(tmp_path)
