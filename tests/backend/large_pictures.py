"""Write the largest panorama that is read."""

import struct
import zlib
from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def write(path: Path, depth: str) -> None:
    """Write a grey panorama of 16384 × 8192 in the format of the suffix: a PNG "uint8", others "uint16" or "half"."""
    if path.suffix == ".png":
        assert depth == "uint8"
        path.write_bytes(_png())
        return
    spec = oiio.ImageSpec(16384, 8192, 3, depth)
    spec.attribute("compression", "none" if path.suffix == ".tif" else "rle")
    value = {"uint16": np.uint16(2**15), "half": np.float16(0.5)}[depth]
    rows = np.full((512, 16384, 3), value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    for top in range(0, 8192, 512):
        output.write_scanlines(top, top + 512, 0, rows)
    output.close()


def _png() -> bytes:
    """Return it as a PNG: rows that are compressed once, many times. OpenImageIO would compress them all, for 4 s."""
    rows = (b"\0" + bytes([128]) * (3 * 16384)) * 512
    deflate = zlib.compressobj(1, wbits=-15)
    block = deflate.compress(rows) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(16):
        checksum = zlib.adler32(rows, checksum)
    stream = b"\x78\x01" + 16 * block + deflate.flush() + struct.pack(">I", checksum)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 16384, 8192, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
