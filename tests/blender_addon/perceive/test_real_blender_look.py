"""Look around in a panorama in the Blender application's window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_blender


def test_views_show_the_panorama_and_return(in_window: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = Path(__file__).with_name("real_window_look.py")
    seen = in_window(out, "--enable-event-simulate", "--python", str(script), "--", str(out))
    assert "error" not in seen, seen["error"]
    assert seen["returned"] == ["FINISHED"]
    assert seen["active"]
    assert seen["looking"] == ["Panoform Preview", "MATERIAL", False, False]
    assert seen["windows"] == [2, 1], "the preferences were closed meanwhile"
    assert seen["after"] == seen["before"]
    assert seen["rendering"] == [True, False], "a world with other nodes is rendered beside Blender"
    assert seen["rendered"] == [None, True, 0, 1], "then it is shown, is no result, and its copy is gone"
    assert seen["shown"] == [True, True], "also the view that was split off"
