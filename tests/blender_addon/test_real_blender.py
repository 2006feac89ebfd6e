"""The built zip in the Blender application: command line and panel in a window."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import psutil
import pytest

HERE = Path(__file__).resolve().parent

pytestmark = [pytest.mark.real_blender, pytest.mark.every_blender]


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    path = tmp_path / "größe of a room.png"
    image = oiio.ImageBuf(oiio.ImageSpec(128, 64, 3, oiio.UINT8))
    image.set_pixels(oiio.ROI(), np.random.default_rng(0).uniform(0, 1, (64, 128, 3)).astype(np.float32))
    assert image.write(str(path))
    return path


def test_command_line(blender: Callable, panorama: Path, tmp_path: Path) -> None:
    command = ("--background", "--command", "panoform")
    maps, saved = tmp_path / "maps", tmp_path / "out.blend"
    output = blender(
        *command, "perceive", "--panorama", str(panorama), "--save", str(saved), "--maps", "distance,roughness",
        "--quality", "draft", "--out", str(maps),
    )  # fmt: skip
    assert "Panoform: Distance" in output
    assert saved.stat().st_size > 10_000
    assert (maps / "distance.exr").exists()
    again = tmp_path / "again.blend"
    for verb in (("import", "--directory"), ("build", "--kind", "MESH", "--maps")):
        blender(*command, *verb, str(maps), "--save", str(again))
        assert again.stat().st_size > 10_000
        again.unlink()

    with pytest.raises(AssertionError, match="There is no file"):  # the exit code is not 0
        blender(*command, "perceive", "--panorama", "nope.exr", "--save", str(again))
    with pytest.raises(AssertionError, match=r"Prompts need FLUX\.1-dev"):
        blender(*command, "generate", "a yard", "--engine", "starter", "--out", str(tmp_path / "out.exr"))


def test_window(in_window: Callable, panorama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = ("--enable-event-simulate", "--python", str(HERE / "real_window.py"), "--", str(out), str(panorama))
    seen = in_window(out, *script, str(tmp_path / "data"))
    assert "error" not in seen, seen["error"]
    assert seen["failure"] is None

    assert seen["pressed"]
    assert seen["ticks at work"] > 1, "the window was blocked"
    assert seen["status bar"] > 2, "the status bar was not redrawn while the job went on"
    objects, world, _ = seen["before"]
    built = [sorted([*objects, "größe of a room camera", "größe of a room mesh"]), "Panoform größe of a room"]
    assert seen["built"][:2] == built
    assert seen["inside"] == pytest.approx([0, 0, 1.6], abs=1e-4)
    assert seen["shading"] == ["SOLID", "MATERIAL", "SOLID"]
    assert seen["view again"] == pytest.approx(seen["view before"], abs=1e-4)
    assert seen["undone"] == seen["before"]
    assert seen["redone"] == seen["built"]

    assert seen["in edit mode"] == seen["before"]
    assert seen["waits for"] == "Object Mode"
    assert seen["out of edit mode"] == seen["built"]
    assert seen["undone again"] == seen["before"]

    assert seen["returned at once"]
    assert seen["rendering"]
    assert seen["rendered"] == [64, 32]
    assert seen["scenes"] == 1

    assert seen["in another file"][:2] == [objects, world]
    assert seen["built there"][:2] == built

    by = time.monotonic() + 30
    while psutil.pid_exists(seen["backend"]):
        assert time.monotonic() < by, "the backend outlived Blender"
        time.sleep(0.1)
