"""Checks shared by the settings of all jobs."""

from __future__ import annotations

from ..protocol.errors import SettingError


def check_range(name: str, value: float | None, low: float, high: float, unit: str = "") -> None:
    """Raise SettingError unless low ≤ `value` ≤ high (NaN fails). None, which stands for a default, passes."""
    if value is not None and not low <= value <= high:
        raise SettingError(
            f"{name} is {value:.10g}{unit}.", f"It must lie between {low:.10g}{unit} and {high:.10g}{unit}."
        )
