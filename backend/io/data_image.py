"""Read images that hold data, not colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...shared.file_errors import display_name
from ...shared.protocol.errors import InputError
from . import image_input


def read(path: Path) -> np.ndarray:
    """Read the first three channels of an image unchanged, (H, W, 3) float32; integers are in [0, 1].

    Raise InputError for a damaged file, or one with fewer channels.
    """
    name = display_name(path.name)
    with image_input.opened(path, failure=InputError, hint="Save it again.") as source:
        pixels = image_input.read_all(source, name, InputError, "Save it again.")
    if pixels.shape[2] < 3:
        raise InputError(f"{name} has {pixels.shape[2]} channels, not 3.", "Save it as RGB.")
    return np.ascontiguousarray(pixels[..., :3])
