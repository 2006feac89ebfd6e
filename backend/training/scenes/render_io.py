"""Write images with OpenImageIO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def write_image(path: Path, pixels: np.ndarray, kind: str, compression: str = "zip") -> None:
    """Write (H, W, C) pixels as OpenImageIO's type `kind` ("half", "uint8", …). Raise OSError."""
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], kind)
    if path.suffix == ".exr":
        spec.attribute("compression", compression)
    image = oiio.ImageOutput.create(str(path))
    if image is None:
        raise OSError(f"{path}: {oiio.geterror()}")
    written = image.open(str(path), spec) and image.write_image(np.ascontiguousarray(pixels, np.float32))
    if not (written and image.close()):
        raise OSError(f"{path}: {image.geterror()}")
