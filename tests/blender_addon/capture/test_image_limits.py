"""Files that ask for much memory are refused before Blender decodes them; large panoramas are reduced."""

import struct
import subprocess
import sys
import zlib

import bpy
import cycles_truth as cycles
import large_pictures
import numpy as np
import pytest
from captured import from_world

from panoform.blender_addon.capture import image_limits, picture, pixels, sources
from panoform.blender_addon.scene import maps_folder
from panoform.shared.imaging import headers
from panoform.shared.imaging.shrink import block_means
from panoform.shared.jobs.generate import View
from panoform.shared.protocol.errors import InputError, PanoramaError


def png(path, width, height):
    def chunk(kind, content):
        return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))
    return path


def exr_with_large_tiles(path):
    cycles.write(path, np.full((32, 64, 3), 0.5, np.float32), "float")
    data = path.read_bytes()
    data = data.replace(b"type\0string\0" + struct.pack("<i", 13) + b"scanlineimage", b"")
    tiles = b"tiles\0tiledesc\0" + struct.pack("<iIIB", 9, 16, 30_000_000, 0)
    end = data.index(b"screenWindowWidth")
    version = struct.pack("<I", struct.unpack_from("<I", data, 4)[0] | 0x200)
    path.write_bytes(data[:4] + version + data[8:end] + tiles + data[end:])
    return path


BOMBS = {"a.png": lambda path: png(path, 40000, 20000), "a.exr": exr_with_large_tiles}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("packed", [False, True])
def test_bombs_are_refused_undecoded(scene, tmp_path, name, packed):
    path = BOMBS[name](tmp_path / name)
    image = bpy.data.images.load(str(path))
    if packed:
        image.pack()
    world = bpy.data.worlds.new("HDRI")
    cycles.use_nodes(world)
    texture = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    world.node_tree.links.new(texture.outputs["Color"], world.node_tree.nodes["Background"].inputs["Color"])
    scene.world = world
    readers = {
        "raw": lambda: pixels.raw(image),
        "image": lambda: sources.from_image(image),
        "world": lambda: from_world(scene),
        "picture": lambda: picture.from_image(image, View(fov=60)),
        "file": lambda: sources.from_file(path),
        "load": lambda: image_limits.load(path),
    }
    for what, read in readers.items():
        with pytest.raises(PanoramaError) as caught:
            read()
        assert caught.value.hint, what
        assert not image.has_data, what
    assert image_limits.size(image) == (0, 0)
    assert not image.has_data


def test_the_refusal_of_a_packed_image_is_remembered(scene, tmp_path, monkeypatch):
    """The panel asks at each redraw, and reading the packed file copies it."""
    image = bpy.data.images.load(str(png(tmp_path / "a.png", 40000, 20000)))
    image.pack()
    assert image_limits.size(image) == (0, 0)
    with monkeypatch.context() as context:
        context.setattr(headers, "check_bytes", lambda *_: pytest.fail("the packed file is read again"))
        assert image_limits.size(image) == (0, 0)
    other = bpy.data.images.load(str(png(tmp_path / "b.png", 400, 200)))
    other.pack()
    assert image_limits.size(other) == (400, 200)
    assert not other.has_data
    with pytest.raises(PanoramaError):
        image_limits.check(image)


def test_folders_of_maps_are_checked(scene, tmp_path):
    png(tmp_path / "distance.png", 40000, 20000)
    with pytest.raises(InputError):
        maps_folder.read(tmp_path)
    assert not bpy.data.images


def test_images_without_a_file_are_checked(scene):
    image = bpy.data.images.new("large", 8, 4)
    image.generated_width = image.generated_height = 60000
    with pytest.raises(PanoramaError, match="60000"):
        sources.from_image(image)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("exr", "float"), ("png", "uint8"), ("png", "uint16"), ("hdr", "float"), ("tif", "uint8"), ("tif", "uint16"),
     ("tif", "float")],
)  # fmt: skip
def test_large_panoramas_are_reduced_by_means(scene, tmp_path, suffix, kind):
    path = tmp_path / f"large.{suffix}"
    rows, columns = np.mgrid[0:256, 0:512].astype(np.float32)
    picture_ = np.stack([rows / 256, columns / 512, 0.5 + 0.4 * np.sin(rows / 9) * np.cos(columns / 9)], axis=-1)
    cycles.write(path, picture_, kind)
    whole = sources.from_file(path).panorama.pixels
    before = set(bpy.data.images)
    image = bpy.data.images.load(str(path))
    for found in (sources.from_file(path, height=16), sources.from_image(image, height=16)):
        assert found.panorama.pixels.shape == (64, 128, 3)
        assert found.size == (256, 512)
        np.testing.assert_allclose(found.panorama.pixels, block_means(whole, 4), atol=2e-3)
    assert tuple(image.size) == (512, 256)
    bpy.data.images.remove(image)
    assert set(bpy.data.images) == before


def test_pixels_that_are_not_numbers_keep_their_places(scene, tmp_path):
    path = tmp_path / "nan.exr"
    values = np.full((256, 512, 3), 0.5, np.float32)
    values[100, 200] = np.nan
    cycles.write(path, values, "float")
    found = sources.from_file(path, height=16).panorama.pixels
    assert np.argwhere(np.isnan(found[..., 0])).tolist() == [[100, 200]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("suffix", "depth"), [("exr", "half"), ("png", "uint8"), ("tif", "uint16")])
def test_the_largest_panorama_takes_less_than_three_gigabytes(tmp_path, suffix, depth):
    path = tmp_path / f"large.{suffix}"
    large_pictures.write(path, depth)
    script = (
        "import os, sys, bpy; from pathlib import Path; from panoform.blender_addon.capture import sources\n"
        "found = sources.from_file(sys.argv[1], height=512)\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(found.panorama.pixels.shape, found.size, peak, flush=True); os._exit(0)"
    )
    printed = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    *_, kilobytes = printed.stdout.split()
    assert "(2048, 4096, 3) (8192, 16384)" in printed.stdout
    assert int(kilobytes) < 3_000_000


def test_very_large_pictures_are_halved_by_blender_first(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "_LARGE_BYTES", 2**16)
    path = tmp_path / "large.png"
    values = np.random.default_rng(0).random((256, 512, 3), dtype=np.float32)
    cycles.write(path, values, "uint8")
    found = sources.from_file(path, height=16).panorama.pixels
    expected = block_means(np.round(values * 255) / 255, 4)
    np.testing.assert_allclose(found, expected, atol=8 / 255)  # noise, and shifted by a hundredth of a pixel
    assert abs((found - expected).mean()) < 0.05 / 255
