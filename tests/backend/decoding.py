"""Decode the contents of image files that a reply carries, with OpenImageIO."""

import tempfile
from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def decoded(data: np.ndarray) -> np.ndarray:
    """Return the pixels of an image file's content, (H, W, C) float32, top row first, as they are stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("file.png" if bytes(data[:4]) == b"\x89PNG" else "file.exr")
        path.write_bytes(data)
        image = oiio.ImageBuf(str(path))
        pixels = image.get_pixels(oiio.FLOAT)
        assert not image.has_error, image.geterror()
    return pixels.reshape(image.spec().height, image.spec().width, -1)
