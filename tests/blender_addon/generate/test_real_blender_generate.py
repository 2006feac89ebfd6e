"""The built zip in the Blender application's window, with the tiny FLUX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("real_window_generate.py")

pytestmark = pytest.mark.real_blender


def test_the_world_while_a_panorama_is_made(
    in_window: Callable, tiny_flux: Path, tiny_adapters: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    given = (out, tmp_path / "data", tiny_flux, tiny_adapters, tiny_lora)
    seen = in_window(out, "--enable-event-simulate", "--python", str(SCRIPT), "--", *map(str, given))
    assert "error" not in seen, seen["error"]

    world, worlds, files = seen["before"]
    assert files == []
    assert seen["returned at once"]
    assert seen["at work"][0] == "Panoform Preview"
    assert seen["cancelled"] == seen["before"], "it is removed completely"
    assert seen["error message"] == "The job was cancelled."

    assert seen["failure"] is None
    made = ["a yard 3.exr", "a yard 3.json"]
    assert seen["made"] == ["Panoform a yard 3", sorted([*worlds, "Panoform a yard 3"]), made]
    assert seen["undone"] == [world, worlds, made]
    assert seen["redone"] == seen["made"]

    assert seen["rendering it"] == [True, "Panoform Preview"]
    running, shown = seen["renders on"]
    assert running, "the render was to outlive the job"
    assert shown == "Panoform a yard 3", "the user's world is back at once"
    assert seen["rendered"] == [True, seen["made"]]

    world, _, files = seen["two made"]
    assert world == "Panoform a yard 3 2"
    assert sorted(set(files) - set(made)) == ["a yard 3 2.exr", "a yard 3 2.json", "a yard 4.exr", "a yard 4.json"]

    assert seen["sunny"] == ["sunny", ["Light"]]
    assert seen["split"] == ["Panoform sky without sun", ["Light", "Panoform Sun"]]
    assert seen["not split"] == seen["sunny"]
