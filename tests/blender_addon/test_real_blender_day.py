"""A new user's day in Blender's window: from the zip and a folder of wheels to a result, and all of it away again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
#: Most seconds in which the set-up's bar, number and text may stay the same.
MAX_STILL_S = 5
#: Timeout of the whole day: packages of gigabytes are unpacked.
DAY_S = 1800

pytestmark = [pytest.mark.real_blender, pytest.mark.every_blender, pytest.mark.timeout(DAY_S + 60)]


def test_from_zip_to_uninstalled(real_blender, zips: Path, tmp_path: Path, monkeypatch) -> None:
    wheels = os.environ.get("PANOFORM_WHEELS")
    if not wheels:
        pytest.skip("PANOFORM_WHEELS names no folder with the backend's packages for this Blender's Python")
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON", raising=False)
    version = real_blender.version
    (zip_path,) = zips.glob(f"*-blender-{'4.2' if version < '5.1' else '5.1'}.zip")
    out, folder = Path(os.environ.get("PANOFORM_PICTURES", tmp_path)) / version, tmp_path / "données of Panoform"
    out.mkdir(parents=True, exist_ok=True)
    (out / "seen.json").unlink(missing_ok=True)
    script = ("--enable-event-simulate", "--python", str(HERE / "real_window_day.py"), "--")
    seen = real_blender.in_window(out, *script, str(out), str(zip_path), wheels, str(folder), seconds=DAY_S)
    print(json.dumps(seen, indent=1))
    assert "error" not in seen, seen["error"]
    assert seen["set-up began"]
    assert seen["set-up failure"] is None
    assert seen["longest still"] <= MAX_STILL_S
    assert seen["pressed"]
    assert seen["failure"] is None
    objects, _world, _ = seen["before"]
    assert seen["built"][:2] == [sorted([*objects, "interior camera", "interior mesh"]), "Panoform interior"]
    assert seen["cancelled"] == "The job was cancelled."
    assert seen["after cancel"] == seen["built"]
    assert seen["undone"] == seen["before"]
    assert seen["redone"] == seen["built"]
    assert seen["reopened"] == seen["built"]
    assert seen["not packed"] == []
    assert "environment" not in seen["left of the environment"]
    assert not seen["settings left"]
    assert seen["after uninstalling"][:2] == seen["built"][:2]
