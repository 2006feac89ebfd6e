"""Write the largest panorama that is read."""

from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def write(path: Path, depth: str) -> None:
    """Write a grey panorama of 16384 × 8192 in the format of the suffix; `depth` is "uint8", "uint16" or "half"."""
    spec = oiio.ImageSpec(16384, 8192, 3, depth)
    spec.attribute("png:compressionLevel", 1)
    spec.attribute("compression", "none" if path.suffix == ".tif" else "rle")
    value = {"uint8": np.uint8(128), "uint16": np.uint16(2**15), "half": np.float16(0.5)}[depth]
    rows = np.full((512, 16384, 3), value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    for top in range(0, 8192, 512):
        output.write_scanlines(top, top + 512, 0, rows)
    output.close()
