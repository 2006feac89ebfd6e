"""Python's own list of the names that Windows reserves is the second opinion."""

from __future__ import annotations

from pathlib import PureWindowsPath

import pytest

from panoform.shared.file_names import is_device

DEVICES = ["con", "Prn", "AUX", "nul", "CONIN$", "conout$", "com1", "LPT9", "COM¹", "lpt³"]
OTHERS = ["a", "console", "com", "lpt10", "a con"]


@pytest.mark.filterwarnings("ignore:pathlib:DeprecationWarning")
@pytest.mark.parametrize("suffix", ["", ".exr", ".a.exr", " .exr"])
@pytest.mark.parametrize("stem", DEVICES + OTHERS)
def test_devices_are_those_of_windows(stem: str, suffix: str) -> None:
    assert is_device(stem + suffix) == PureWindowsPath(stem + suffix).is_reserved() == (stem in DEVICES)
