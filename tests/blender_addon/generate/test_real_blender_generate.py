"""The built zip in the Blender application's window, with the tiny FLUX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("real_window_generate.py")

pytestmark = pytest.mark.real_blender


def test_world_shows_preview_and_result_and_is_restored_on_cancel(
    in_window: Callable, tiny_flux: Path, tiny_adapters: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = (out, tmp_path / "data", tiny_flux, tiny_adapters, tiny_lora)
    results = in_window(out, "--enable-event-simulate", "--python", str(SCRIPT), "--", *map(str, arguments))
    assert "error" not in results, results["error"]

    world, worlds, files = results["before"]
    assert files == []
    assert results["returned at once"]
    assert results["during the job"][0] == "Panoform Preview"
    assert results["cancelled"] == results["before"], "the preview is removed completely"
    assert results["error message"] == "The job was cancelled."

    assert results["failure"] is None
    first = ["a yard.exr", "a yard.json"]
    assert results["generated"] == ["Panoform a yard", sorted([*worlds, "Panoform a yard"]), first]
    assert results["undone"] == [world, worlds, first]
    assert results["redone"] == results["generated"]

    assert results["rendering during the job"] == [True, "Panoform Preview"]
    running, shown = results["rendering after the job"]
    assert running, "the render ended before the job"
    assert shown == "Panoform a yard", "the user's world is restored immediately"
    assert results["rendered"] == [True, results["generated"]]

    world, _, files = results["two generated"]
    assert world == "Panoform a yard 2"
    assert sorted(set(files) - set(first)) == ["a yard 2.exr", "a yard 2.json", "a yard 3.exr", "a yard 3.json"]

    assert results["with sun"] == ["sunny", ["Light"]]
    assert results["split"] == ["Panoform sky without sun", ["Light", "Panoform Sun"]]
    assert results["split undone"] == results["with sun"]
