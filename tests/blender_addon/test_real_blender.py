"""What ships, in the Blender application: the built zip, its command line, its panel in a real window."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import psutil
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.real_blender, pytest.mark.slow]


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    subprocess.run([sys.executable, str(ROOT / "build_addon.py"), "--out", str(folder)], check=True)
    return folder


@pytest.fixture
def blender(real_blender: Callable, request: pytest.FixtureRequest, zips: Path, monkeypatch) -> Callable:
    """`real_blender` with the zip for that version installed, whose backend runs on this Python."""
    version = request.node.callspec.params["real_blender"]
    (zip_path,) = zips.glob(f"*-blender-{'4.2' if version < '5.1' else '5.1'}.zip")
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    install = ("--background", "--command", "extension", "install-file", "-r", "user_default", "--enable")
    real_blender(*install, str(zip_path), timeout=120)
    return real_blender


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
    said = blender(
        *command, "perceive", "--panorama", str(panorama), "--save", str(saved), "--maps", "distance,roughness",
        "--quality", "draft", "--out", str(maps),
    )  # fmt: skip
    assert "Panoform: Distance" in said
    assert saved.stat().st_size > 10_000
    assert (maps / "distance.exr").exists()
    again = tmp_path / "again.blend"
    blender(*command, "import", "--directory", str(maps), "--save", str(again))
    assert again.stat().st_size > 10_000

    with pytest.raises(AssertionError, match="There is no file"):  # the exit code is not 0
        blender(*command, "perceive", "--panorama", "nope.exr", "--save", str(saved))


def test_window(blender: Callable, panorama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = ("--enable-event-simulate", "--python", str(HERE / "real_window.py"), "--", str(out), str(panorama))
    seen = _in_window(blender, out, *script, str(tmp_path / "data"))
    assert "error" not in seen, seen["error"]
    assert seen["failure"] is None

    assert seen["pressed"]
    assert seen["ticks at work"] > 1, "the window stood still"
    objects, world, _ = seen["before"]
    built = [sorted([*objects, "größe of a room dome"]), "Panoform größe of a room"]
    assert seen["built"][:2] == built
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


def _in_window(blender: Callable, out: Path, *script: str) -> dict:
    """Run a script in a window until it has written seen.json; the tool that gives the window only waits for a time."""
    with ThreadPoolExecutor() as pool:
        run = pool.submit(blender, str(out / "end.png"), "600", *script, verb="gui", timeout=700)
        while not run.done() and not (out / "seen.json").exists():
            time.sleep(0.5)
        time.sleep(3)  # Blender quits
        for child in psutil.Process().children(recursive=True):
            if child.name() == "sleep":
                child.terminate()
        said = run.result()
    assert (out / "seen.json").exists(), said
    return json.loads((out / "seen.json").read_text())
