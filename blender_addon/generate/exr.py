"""Array → EXR file: one part, scan lines, ZIP. (OpenEXR File Layout, openexr.com.)

Blender's own writer puts no text of ours into the header, and its `pack()` leaves the table of offsets empty (5.2).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

_MAGIC, _VERSION = 20000630, 2
_FLOAT, _ZIP, _INCREASING_Y = 2, 3, 0
#: Lines in a chunk, for that compression.
_LINES = 16


def encode(array: np.ndarray, texts: dict[str, str]) -> bytes:
    """(H, W, 3) linear RGB, top row first, as float32, with `texts` as attributes of the header."""
    height, width, _ = array.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + b"\0" + struct.pack("<4i", _FLOAT, 0, 1, 1) for name in (b"B", b"G", b"R"))
    header = struct.pack("<2i", _MAGIC, _VERSION) + b"".join(
        [
            _attribute("channels", "chlist", channels + b"\0"),
            _attribute("compression", "compression", bytes([_ZIP])),
            _attribute("dataWindow", "box2i", window),
            _attribute("displayWindow", "box2i", window),
            _attribute("lineOrder", "lineOrder", bytes([_INCREASING_Y])),
            _attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            _attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
            _attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
            *(_attribute(name, "string", text.encode()) for name, text in texts.items()),
            b"\0",
        ]
    )
    # A line is all of its blue, then green, then red.  # [H, 3, W]
    lines = np.ascontiguousarray(array[..., ::-1].transpose(0, 2, 1), dtype="<f4")
    chunks = []
    for y in range(0, height, _LINES):
        data = _packed(lines[y : y + _LINES].tobytes())
        chunks.append(struct.pack("<2i", y, len(data)) + data)
    sizes = [len(header) + 8 * len(chunks), *map(len, chunks)]
    return b"".join([header, np.cumsum(sizes[:-1]).astype("<u8").tobytes(), *chunks])


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value


def _packed(raw: bytes) -> bytes:
    """Even bytes before odd ones, each as its difference from the one before, deflated; as it is where that is less."""
    data = np.frombuffer(raw, np.uint8)
    data = np.concatenate([data[0::2], data[1::2]])
    data[1:] = data[1:] - data[:-1] + np.uint8(128)
    packed = zlib.compress(data.tobytes(), 1)
    return packed if len(packed) < len(raw) else raw
