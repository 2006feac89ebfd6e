"""The page about models in the Blender application's preferences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from panoform.shared.weights import WEIGHTS

pytestmark = pytest.mark.real_blender


def test_page_fills_when_it_is_shown(in_window: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOFORM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    out = tmp_path / "out"
    out.mkdir()
    script = Path(__file__).with_name("real_window_models.py")
    seen = in_window(out, "--enable-event-simulate", "--python", str(script), "--", str(out), str(tmp_path / "data"))
    assert "error" not in seen, seen["error"]
    assert seen["failures"] == []
    assert seen["ticks"] > 0, "the window was blocked"
    assert seen["weights"] == list(WEIGHTS)
    assert seen["precisions"] == ["flux", "multiview"]
    if seen["languages"]:  # some builds of Blender have none
        assert seen["translated"] == ["fehlt, etwa 3 GB", "Models ·de·"]
