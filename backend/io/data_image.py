"""Read images that hold data, not colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from ...shared.protocol.errors import InputError


def read(path: Path) -> np.ndarray:
    """Read the first three channels of an image unchanged, (H, W, 3) float32; integers are in [0, 1].

    Raise InputError for a damaged file, or one with fewer channels.
    """
    image = oiio.ImageBuf(str(path))
    if not image.read(force=True, convert=oiio.FLOAT):
        reason = " ".join(image.geterror().split()).rstrip(".") or "its content is not an image"
        raise InputError(f"{path.name} can't be read: {reason}.", "Save it again.")
    pixels = np.asarray(image.get_pixels(oiio.FLOAT))
    if pixels.shape[2] < 3:
        raise InputError(f"{path.name} has {pixels.shape[2]} channels, not 3.", "Save it as RGB.")
    return np.ascontiguousarray(pixels[..., :3])
