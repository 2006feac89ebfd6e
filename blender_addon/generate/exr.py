"""Array → EXR file: single part, scan lines, ZIP. (OpenEXR File Layout, openexr.com.)

Blender's own writer can't add header attributes, and its `pack()` leaves the offset table empty (5.2).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

_MAGIC, _VERSION = 20000630, 2
_FLOAT, _ZIP, _INCREASING_Y = 2, 3, 0
#: Scan lines in a chunk with ZIP compression.
_LINES = 16


def encode(array: np.ndarray, texts: dict[str, str]) -> bytes:
    """Encode (H, W, 3) linear RGB, top row first, as float32, with `texts` as header attributes."""
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
    # Channels are stored one after another in each line: B, G, R.  # [H, 3, W]
    lines = np.ascontiguousarray(array[..., ::-1].transpose(0, 2, 1), dtype="<f4")
    chunks = []
    for y in range(0, height, _LINES):
        data = _compress(lines[y : y + _LINES].tobytes())
        chunks.append(struct.pack("<2i", y, len(data)) + data)
    sizes = [len(header) + 8 * len(chunks), *map(len, chunks)]
    return b"".join([header, np.cumsum(sizes[:-1]).astype("<u8").tobytes(), *chunks])


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value


def _compress(raw: bytes) -> bytes:
    """Compress as EXR's ZIP does: even bytes before odd ones, delta-coded, deflated; `raw` if that is smaller."""
    data = np.frombuffer(raw, np.uint8)
    data = np.concatenate([data[0::2], data[1::2]])
    data[1:] = data[1:] - data[:-1] + np.uint8(128)
    packed = zlib.compress(data.tobytes(), 1)
    return packed if len(packed) < len(raw) else raw
