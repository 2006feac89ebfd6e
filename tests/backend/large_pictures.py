"""Write the largest panorama that is read."""

from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def write(path: Path, depth: str) -> None:
    """Write a grey panorama of 16384 × 8192 in the format of the suffix; `depth` is "uint8" or "half"."""
    spec = oiio.ImageSpec(16384, 8192, 3, depth)
    spec.attribute("png:compressionLevel", 1)
    spec.attribute("compression", "rle")
    rows = np.full((512, 16384, 3), 128, np.uint8) if depth == "uint8" else np.full((512, 16384, 3), 0.5, np.float16)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    for top in range(0, 8192, 512):
        output.write_scanlines(top, top + 512, 0, rows)
    output.close()
