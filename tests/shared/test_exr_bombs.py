"""EXR files whose headers ask for far more work than their bytes are worth."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from panoform.shared.picture_files import exr, reading
from panoform.shared.protocol.errors import PanoramaError


def _attribute(name: str, kind: str, data: bytes) -> bytes:
    return b"\0".join((name.encode(), kind.encode(), struct.pack("<I", len(data)) + data))


def _file(chunk: int, *, height: int = 64, tiles: tuple[int, int, int] | None = None) -> bytes:
    """Return a file without compression, of a layer "a", whose table names one chunk of `chunk` bytes for each row."""
    channels = b"".join(f"a.{name}".encode() + b"\0" + struct.pack("<iIii", 1, 0, 1, 1) for name in "BGR") + b"\0"
    window = struct.pack("<4i", 0, 0, 2 * height - 1, height - 1)
    header = b"".join(
        (
            _attribute("channels", "chlist", channels),
            _attribute("compression", "compression", b"\0"),
            _attribute("dataWindow", "box2i", window),
            _attribute("displayWindow", "box2i", window),
            _attribute("lineOrder", "lineOrder", b"\0"),
            _attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            _attribute("screenWindowCenter", "v2f", bytes(8)),
            _attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
            _attribute("tiles", "tiledesc", struct.pack("<IIB", *tiles)) if tiles else b"",
            b"\0",
        )
    )
    start = 8 + len(header) + 8 * height
    table = struct.pack("<Q", start) * height
    flags = 2 | (1 << 9 if tiles else 0)
    return b"v/1\x01" + struct.pack("<I", flags) + header + table + struct.pack("<ii", 0, chunk) + bytes(chunk)


def test_a_layer_is_no_larger_than_its_file(tmp_path: Path) -> None:
    """A table may name the same chunk for each row: 2 MB would become 1 GB."""
    path = tmp_path / "bomb.exr"
    path.write_bytes(_file(2_000_000, height=512))
    header = reading.read_file(path)
    assert header.layer is not None
    with reading.mapped(path) as data, pytest.raises(PanoramaError, match="layer a are not all in it"):
        exr.extract(data, header.layer)


@pytest.mark.parametrize("mode", [0x21, 0x03, 0xF2])
def test_tiles_of_an_unknown_kind_are_refused(tmp_path: Path, mode: int) -> None:
    """Levels that are rounded up twice never end."""
    path = tmp_path / "endless.exr"
    path.write_bytes(_file(100, tiles=(16, 16, mode)))
    with pytest.raises(PanoramaError, match="damaged"):
        reading.read_file(path)


def test_a_chunk_beyond_every_file_is_refused(tmp_path: Path) -> None:
    """Its place is no number that Python's buffers have."""
    path = tmp_path / "far.exr"
    content = _file(100)
    start = struct.pack("<Q", content.index(struct.pack("<ii", 0, 100)))
    path.write_bytes(content.replace(start, struct.pack("<Q", 2**64 - 64)))
    with pytest.raises(PanoramaError, match="its end is missing"):
        reading.read_file(path)
