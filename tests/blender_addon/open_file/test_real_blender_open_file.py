"""A panorama dragged into the Blender application's 3D View."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import bpy
import pytest

pytestmark = pytest.mark.real_blender

HDRI = Path(bpy.utils.system_resource("DATAFILES", path="studiolights/world")) / "courtyard.exr"


def test_panorama_dropped_onto_the_view_is_offered_and_becomes_the_world(in_window: Callable, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "Möbel und Licht"
    out.mkdir()
    folder.mkdir()
    shutil.copy(HDRI, folder / "Höfe 1.exr")
    script = Path(__file__).with_name("real_window_open_file.py")
    seen = in_window(out, "--enable-event-simulate", "--python", str(script), "--", str(out), str(folder))
    assert "error" not in seen, seen["error"]
    assert "Höfe 1" in seen["world"]
    assert "Höfe 1" not in str(seen["objects"])  # no empty that shows the picture
