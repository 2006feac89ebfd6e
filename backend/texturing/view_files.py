"""The six views as image files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...shared.atomic_write import MAKE_ROOM, drafts
from ...shared.jobs.texture import VIEWS
from ...shared.protocol.errors import InputError, OutputError, PanoramaError
from ..io import photo
from ..io.encoding import encode_image


def rounded(views: np.ndarray) -> np.ndarray:
    """Return views (6, H, H, 3) in [0, 1] as their files hold them, in 8 bits."""
    return (np.round(views * 255) / 255).astype(np.float32)


def encode(views: np.ndarray) -> dict[str, np.ndarray]:
    """Return view name → content of a PNG file for views (6, H, H, 3) sRGB in [0, 1]. Raise OutputError."""
    return {
        name: np.frombuffer(encode_image(f"{name}.png", view, "sRGB", bits=8), np.uint8)
        for name, view in zip(VIEWS, views, strict=True)
    }


def decode(files: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the views (6, H, H, 3) float32 sRGB in [0, 1] from the contents of their files.

    Raise InputError for a damaged file, or for views that are not square and of one size; OutputError (a full disk).
    """
    views = []
    try:
        with drafts() as folder:
            for name in VIEWS:
                path = folder / name
                path.write_bytes(files[name].tobytes())
                try:
                    views.append(photo.read(path).pixels)
                except PanoramaError as error:
                    raise InputError(f"The view {error.message}", "Save it again as PNG.") from error
    except OSError as error:
        raise OutputError(f"The views could not be written as temporary files: {error}.", MAKE_ROOM) from error
    height, width, _ = views[0].shape
    for name, view in zip(VIEWS, views, strict=True):
        if view.shape != (height, height, 3):
            raise InputError(
                f"The view {name} is {view.shape[1]} × {view.shape[0]} px; all six must be squares of one size "
                f"({VIEWS[0]} is {width} × {height}).", "Restore its size.",
            )  # fmt: skip
    return np.stack(views)
