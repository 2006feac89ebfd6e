"""Presets in the Blender application's window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_blender


def test_presets_are_saved_for_the_extension_and_loaded(in_window: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = Path(__file__).with_name("real_window_presets.py")
    seen = in_window(out, "--enable-event-simulate", "--python", str(script), "--", str(out), str(tmp_path / "data"))
    assert "error" not in seen, seen["error"]
    assert seen["loaded"] == [["ALBEDO", "DISTANCE"], "best"]
    assert seen["names"] == ["Interiors", "Night Streets"]
    assert "panoform/presets/perceive" in Path(seen["folder"]).as_posix()
