"""Headers are checked before pixels are read: against OpenImageIO for whole files, and with files that ask for much."""

import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import large_pictures
import numpy as np
import OpenImageIO as oiio
import pytest
from PIL import Image

from panoform.backend.io import data_image, image_input, maps, panoramas, photo
from panoform.shared.imaging import headers
from panoform.shared.imaging.headers import tiff
from panoform.shared.picture_files import reading
from panoform.shared.protocol.errors import InputError, PanoramaError

FORMATS = [
    ("a.png", "uint8", {}),
    ("a.png", "uint16", {"png:interlace": 1}),
    ("a.jpg", "uint8", {"compression": "jpeg:90"}),
    ("a.exr", "half", {"compression": "zip"}),
    ("a.exr", "float", {"compression": "dwaa"}),
    ("a.hdr", "float", {}),
    ("a.tif", "float", {}),
    ("a.webp", "uint8", {"compression": "lossless:100"}),
    ("a.webp", "uint8", {"compression": "jpeg:90"}),
    ("a.bmp", "uint8", {}),
    ("a.tga", "uint8", {}),
]


def save(path, depth="uint8", attributes=(), size=(24, 48), channels=3, tile=0, names=()):
    spec = oiio.ImageSpec(size[1], size[0], channels, depth)
    for name, value in dict(attributes).items():
        spec.attribute(name, value)
    if names:
        spec.channelnames = names
    spec.tile_width = spec.tile_height = tile
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), output.geterror()
    assert output.write_image(np.full((*size, channels), 0.5, np.float32)), output.geterror()
    output.close()
    return path


def patched(path, old, new, count=1):
    """Replace bytes in a file."""
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, count))
    return path


def chunk(kind, content):
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks):
    """Return a PNG with one short IDAT chunk."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")))


@pytest.mark.parametrize(("name", "depth", "attributes"), FORMATS)
def test_headers_agree_with_openimageio(tmp_path, name, depth, attributes):
    path = save(tmp_path / name, depth, attributes)
    source = oiio.ImageInput.open(str(path))
    found = headers.check_file(path)
    assert (found.format, found.width, found.height) == (
        source.format_name(),
        source.spec().width,
        source.spec().height,
    )
    assert found.samples >= 3 * 24 * 48
    source.close()


@pytest.mark.parametrize("name", ["a.exr", "a.tif"])
def test_tiles_and_channels_are_counted(tmp_path, name):
    found = headers.check_file(save(tmp_path / name, "float", tile=64, channels=7, size=(100, 200)))
    assert (found.width, found.height, found.samples) == (200, 100, 7 * 100 * 200)
    assert found.buffers >= 256 * 64 * 7 * 4


def test_long_texts_of_an_exr_are_passed_over(tmp_path):
    """Cryptomatte's manifest of 45,000 objects."""
    manifest = ",".join(f'"object_{index:06}":"{index:08x}"' for index in range(45000))
    path = save(tmp_path / "a.exr", "half", {"cryptomatte/abc/manifest": manifest})
    assert path.stat().st_size > 2**20
    found = headers.check_file(path)
    assert (found.width, found.height) == (48, 24)
    assert panoramas.read(path)[0].shape == (24, 48, 3)


def test_parts_of_an_exr_say_their_kind(tmp_path):
    """By the flag of a file with one part, which has the type too in newer files; by the type where there are more."""
    for tile, kind in ((0, b"scanlineimage"), (16, b"tiledimage")):
        path = save(tmp_path / "a.exr", "half", tile=tile)
        found = headers.check_file(path)
        patched(path, b"channels\0", b"type\0string\0" + struct.pack("<i", len(kind)) + kind + b"channels\0")
        assert headers.check_file(path) == found
    patched(path, struct.pack("<I", 0x202), struct.pack("<I", 0x1202))
    with pytest.raises(PanoramaError, match="contradicts itself"):
        headers.check_file(path)


def uncompressed(path, bits, channels, strip_bytes, rows=8192):
    """Write the header of a TIFF of 16384 × 8192 that is not compressed."""
    tags = [
        (256, 4, 1, 16384), (257, 4, 1, 8192), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 400),
        (277, 3, 1, channels), (278, 4, 1, rows), (279, 4, 1, strip_bytes),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400))
    return path


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_a_single_strip_that_is_not_compressed_needs_no_copy(tmp_path, channels):
    size = 16384 * 8192
    path = uncompressed(tmp_path / "a.tif", 16, 3, 6 * size)
    headers.check_file(path, channels=channels)
    assert tiff.read(io.BytesIO(path.read_bytes())).buffers < 5 * size
    for others, least in (((10, 8192), 10), ((3 * size, 4096), 7)):  # libtiff reads these strips as a whole
        assert tiff.read(io.BytesIO(uncompressed(path, 16, 3, *others).read_bytes())).buffers >= least * size


def test_jpegs_in_several_scans_are_decoded_as_a_whole(tmp_path):
    """A sequential picture with one scan, and the same header with a scan of its first component."""
    path = save(tmp_path / "a.jpg")
    whole = headers.check_file(path)
    patched(path, b"\xff\xda\0\x0c\x03\x01\0", b"\xff\xda\0\x08\x01\x01\0")
    assert headers.check_file(path).buffers == whole.buffers + 2 * whole.samples
    progressive = tmp_path / "p.jpg"
    Image.fromarray(np.zeros((24, 48, 3), np.uint8)).save(progressive, progressive=True)
    assert headers.check_file(progressive).buffers == whole.buffers + 2 * whole.samples


def test_markers_that_are_unknown_are_refused(tmp_path):
    """libjpeg-turbo accepts the same ones."""
    data = save(tmp_path / "a.jpg").read_bytes()
    for code in range(256):
        changed = data[:2] + bytes((0xFF, code)) + b"\0\x04ab" + data[2:]
        try:
            found = headers.check_bytes(changed, "a.jpg").width
        except PanoramaError:
            continue
        with contextlib.suppress(OSError, SyntaxError):
            assert Image.open(io.BytesIO(changed)).size[0] == found


def test_a_decoder_that_finds_a_larger_picture_than_the_header_is_stopped(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    small = headers.check_file(path)._replace(width=24)
    monkeypatch.setattr(headers, "check_file", lambda *_, **__: small)
    for read in (panoramas.read, photo.read, data_image.read):
        with pytest.raises(InputError, match="contradicts itself"):
            read(path)


def exr_tile(path):
    return patched(save(path, "float", tile=16), struct.pack("<II", 16, 16), struct.pack("<II", 16, 30_000_000))


def exr_other_type(path):
    """Large tiles in a file whose part says that it has none: OpenEXR goes by the flag."""
    kind = b"type\0string\0" + struct.pack("<i", 13) + b"scanlineimage"
    return patched(exr_tile(path), b"channels\0chlist", kind + b"channels\0chlist")


def exr_window(path):
    window = b"dataWindow\0box2i\0" + struct.pack("<i", 16)
    return patched(
        save(path, "half"), window + struct.pack("<4i", 0, 0, 47, 23), window + struct.pack("<4i", 0, 0, 47, 2**30)
    )


def exr_offset_window(path):
    window = b"dataWindow\0box2i\0" + struct.pack("<i", 16)
    far = struct.pack("<4i", -(2**31), 0, 2**31 - 1, 23)
    return patched(save(path, "half"), window + struct.pack("<4i", 0, 0, 47, 23), window + far)


def exr_channels(path):
    names = [f"layer{index}.{letter}" for index in range(300) for letter in "RGB"] + list("RGB")
    save(path, "half", {"compression": "zip"}, channels=len(names), names=names)
    zip_, dwab = (b"compression\0compression\0" + struct.pack("<iB", 1, kind) for kind in (3, 9))
    patched(path, zip_, dwab)  # in blocks of 256 rows
    windows = struct.pack("<4i", 0, 0, 47, 23)
    return patched(path, windows, struct.pack("<4i", 0, 0, 16383, 8191), 2)


def tiff_tile(path):
    """A tile as high as 2^30 rows: tag 323, TileLength."""
    save(path, "uint8", tile=16)
    tag = struct.pack("<HHI", 323, 4, 1) if struct.pack("<HHI", 323, 4, 1) in path.read_bytes() else None
    short = struct.pack("<HHIHH", 323, 3, 1, 16, 0)
    return patched(path, short, struct.pack("<HHII", 323, 4, 1, 2**30)) if tag is None else patched(
        path, tag + struct.pack("<I", 16), tag + struct.pack("<I", 2**30)
    )  # fmt: skip


def tiff_second_page(path):
    """A first page of one channel, and a second of 60000 × 30000."""

    def page(width, height, channels, following):
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (277, 3, 1, channels)]
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)

    first = page(4, 2, 1, 8 + 2 + 4 * 12 + 4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + first + page(60000, 30000, 3, 0))
    return path


def tiff_size_twice(path):
    """libtiff takes the first of each tag."""
    tags = [(256, 4, 1, 24000), (256, 4, 1, 64), (257, 4, 1, 24000), (257, 4, 1, 32), (258, 3, 1, 8), (277, 3, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400))
    return path


def tiff_loop(path):
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2)
        + struct.pack("<HHII", 256, 4, 1, 64) + struct.pack("<HHII", 257, 4, 1, 32) + struct.pack("<I", 8)
    )  # fmt: skip
    return path


def png_size(path):
    path.write_bytes(png(40000, 20000))
    return path


def png_text(path):
    """1000 chunks of compressed text, each of 8 MB."""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000)))
    path.write_bytes(png(64, 32, *[text] * 1000))
    return path


def hdr_size(path):
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 100000 +X 200000\n" + bytes(100))
    return path


def webp_size(path):
    content = struct.pack("<I", 0) + (2**24 - 1).to_bytes(3, "little") * 2
    path.write_bytes(b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<I", 10) + content + bytes(20))
    return path


def bmp_size(path):
    path.write_bytes(b"BM" + bytes(12) + struct.pack("<Iii", 40, 2**30, -(2**30)) + bytes(40))
    return path


def tga_size(path):
    path.write_bytes(struct.pack("<BBB5x4xHHBB", 0, 0, 2, 65535, 65535, 24, 0))
    return path


def jpeg_empty(path):
    data = save(path).read_bytes()
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    return path


def jpeg_between(path):
    """A small frame header within a segment of code 0, which decoders pass over byte by byte to the large one after."""
    data = save(path).read_bytes()
    at = data.index(b"\xff\xc0")
    large = data[2 : at + 5] + struct.pack(">HH", 65000, 65000) + data[at + 9 :]
    path.write_bytes(data[:2] + b"\xff\0\0\x02" + data[at : at + 19] + large)
    return path


def jpeg_scans(path):
    """A sequential picture in scans of one component each, 300 times."""
    data = save(path).read_bytes()
    at = data.index(b"\xff\xda")
    path.write_bytes(data[:at] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0" * 300 + b"\xff\xd9")
    return path


BOMBS = {
    "tile.exr": exr_tile, "window.exr": exr_window, "far.exr": exr_offset_window, "channels.exr": exr_channels,
    "tile.tif": tiff_tile, "pages.tif": tiff_second_page, "loop.tif": tiff_loop, "size.png": png_size,
    "text.png": png_text, "size.hdr": hdr_size, "size.webp": webp_size, "size.bmp": bmp_size, "size.tga": tga_size,
    "empty.jpg": jpeg_empty, "between.jpg": jpeg_between, "scans.jpg": jpeg_scans, "twice.tif": tiff_size_twice,
    "type.exr": exr_other_type,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_ask_for_much_are_refused_before_they_are_decoded(tmp_path, name, monkeypatch):
    path = BOMBS[name](tmp_path / name)
    with pytest.raises(PanoramaError) as caught:
        headers.check_file(path)
    assert caught.value.hint

    monkeypatch.setattr(oiio.ImageInput, "open", lambda *_: pytest.fail("a decoder has seen the file"))
    for read in (panoramas.read, panoramas.load, photo.read, photo.read_rgba, data_image.read):
        with pytest.raises(InputError):
            read(path)
    (tmp_path / "maps").mkdir()
    path.rename(tmp_path / "maps" / f"distance{path.suffix}")
    with pytest.raises(InputError):
        maps.read(tmp_path / "maps")


@pytest.mark.slow
def test_no_header_raises_another_error(tmp_path):
    """Headers cut short at each byte, and with each byte changed."""
    paths = [save(tmp_path / f"{index}{name}", depth, attributes) for index, (name, depth, attributes) in
             enumerate(FORMATS)] + [exr_channels(tmp_path / "c.exr"), tiff_second_page(tmp_path / "p.tif")]  # fmt: skip
    random = np.random.default_rng(0)
    tried = 0
    for path in paths:
        whole = path.read_bytes()[:1500]
        for at in range(0, len(whole), 3):
            changed = bytearray(whole)
            changed[at] = random.integers(256)
            for data in (whole[:at], bytes(changed)):
                tried += 1
                with contextlib.suppress(PanoramaError):
                    headers.check_bytes(data, path.name)
    assert tried > 3000


def test_extensions_of_other_formats_are_refused(tmp_path):
    """OpenImageIO chooses by the extension first: its format "null" makes pictures of any size from a name alone."""
    path = save(tmp_path / "a.png").rename(tmp_path / "a.png.null")
    with pytest.raises(PanoramaError, match="extension of another format"):
        panoramas.read(path)
    plain = save(tmp_path / "b.png").rename(tmp_path / "b")
    assert panoramas.read(plain)[0].shape == (24, 48, 3)


def test_names_and_texts_that_are_no_utf8_are_told(tmp_path):
    names = save(tmp_path / "a.exr", "half", names=["Rr", "Gg", "Bb"])
    patched(names, b"Bb\0", b"B\xff\0")
    with pytest.raises(PanoramaError, match="channel's name is not UTF-8"):
        panoramas.read(names)
    long = tmp_path / ("n" * 300 + ".png")
    for read in (panoramas.read, photo.read, data_image.read):
        with pytest.raises(InputError, match="no file"):
            read(long)
    if sys.platform == "linux":
        strange = save(tmp_path / "c.png").rename(tmp_path / b"c\xff.png".decode("utf-8", "surrogateescape"))
        with pytest.raises(PanoramaError, match="not UTF-8") as caught:
            panoramas.read(strange)
        str(caught.value).encode()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("x"),
        ValueError("x"),
        TypeError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    ],
)
def test_what_openimageio_raises_is_translated(error):
    with pytest.raises(PanoramaError) as caught, image_input.translated("a.png"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.hint


def test_its_advice_to_programmers_is_not_shown():
    text = (
        'OpenEXR exceeds "limits:imagesize_MB" 24105. Possible corrupt input?\n'
        "If you're sure this is a valid file, raise the OIIO attribute."
    )
    assert "attribute" not in image_input.reason(text)
    assert image_input.reason("") == "its content is not an image"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_the_largest_panorama_is_read_in_less_than_a_gigabyte(tmp_path):
    path = tmp_path / "large.png"
    large_pictures.write(path, "uint8")
    script = (
        "import sys; from pathlib import Path; from panoform.backend.io import panoramas\n"
        "found = panoramas.read_reduced(Path(sys.argv[1]), 512)\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(found.pixels.shape, found.source_size, peak)"
    )
    printed = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    *_, kilobytes = printed.stdout.split()
    assert printed.stdout.startswith("(2048, 4096, 3) (8192, 16384)")
    assert int(kilobytes) < 1_000_000


@pytest.mark.parametrize("kind", [7, 12], ids=["bytes", "numbers"])
def test_tags_that_share_their_bytes_are_not_read(kind):
    """A TIFF of 1 MB, in which a hundred tags that say nothing of a panorama are all of its bytes each."""
    file = io.BytesIO()
    Image.new("RGB", (32, 16)).save(file, "TIFF")
    data = file.getvalue()
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    own = data[at + 2 : at + 2 + 12 * count]
    values = 2**20 // {7: 1, 12: 8}[kind]
    more = b"".join(struct.pack("<HHII", 40000 + number, kind, values, 0) for number in range(100))
    data = (
        data[:4] + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", count + 100) + own + more + bytes(2**20)
    )
    tracemalloc.start()
    assert reading.read(data, "a.tif").width == 32
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
