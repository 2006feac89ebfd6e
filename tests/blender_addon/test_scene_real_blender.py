"""The same build in the Blender application: `real_scene.py` says what is checked."""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.real_blender
@pytest.mark.slow
def test_build_save_reload_and_capture(real_blender, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ("--background", "--factory-startup", "--python-exit-code", "3")
    said = real_blender(*arguments, "--python", str(HERE / "real_scene.py"), "--", str(out))
    assert "PANOFORM SCENE OK" in said
