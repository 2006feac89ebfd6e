"""Horizontal fields of view that a perspective picture can have."""

from __future__ import annotations

from ..protocol.errors import SettingError

#: In degrees.
MIN_FOV, MAX_FOV = 5.0, 170.0


def check_fov(fov: float) -> None:
    """Raise SettingError where no perspective picture can have this horizontal field of view, in degrees."""
    if not MIN_FOV <= fov <= MAX_FOV:
        raise SettingError(f"The field of view is {fov:.10g}°.", f"It must lie between {MIN_FOV:g}° and {MAX_FOV:g}°.")
