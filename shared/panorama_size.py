"""The size of panoramas, which is checked before their pixels are read."""

from __future__ import annotations

from .engines import MAX_PANORAMA_WIDTH
from .protocol.errors import PanoramaError

#: How far width / (2 · height) may be from 1 before a panorama is rejected instead of resized.
ASPECT_TOLERANCE = 0.01


def check_size(height: int, width: int) -> None:
    """Raise PanoramaError unless height × width is a panorama of at most MAX_PANORAMA_WIDTH, 2:1 to within 1 %."""
    if height < 1 or width < 2:
        raise PanoramaError(f"The panorama is empty ({width} × {height}).", "Choose another image.")
    if width > MAX_PANORAMA_WIDTH:
        raise PanoramaError(
            f"The panorama is {width} × {height}; at most {MAX_PANORAMA_WIDTH} × {MAX_PANORAMA_WIDTH // 2} is read.",
            "Scale it down first: the model sees far fewer pixels.",
        )
    if abs(width / (2 * height) - 1) > ASPECT_TOLERANCE:
        raise PanoramaError(
            f"The picture is {width} × {height}, not 2:1, so it does not show all directions.",
            f"Give an equirectangular panorama, such as {2 * height} × {height}; crop or pad it, don't stretch it.",
        )
