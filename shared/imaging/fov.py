"""Valid horizontal fields of view of a perspective picture."""

from __future__ import annotations

from ..protocol.errors import SettingError

#: In degrees.
MIN_FOV, MAX_FOV = 5.0, 170.0


def check_fov(fov: float) -> None:
    """Raise SettingError for a horizontal field of view, in degrees, outside the valid range."""
    if not MIN_FOV <= fov <= MAX_FOV:
        raise SettingError(f"The field of view is {fov:.10g}°.", f"It must lie between {MIN_FOV:g}° and {MAX_FOV:g}°.")
