"""Texturing in the Blender application: `real_window_texture.py` runs inside it."""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]


@pytest.mark.real_blender
@pytest.mark.parametrize("model", [True, False], ids=["with a model", "without"])
def test_a_press_textures_a_cube_and_undo_restores_it(in_window, tiny_sd21, multiview_adapters, tmp_path, model):
    out = tmp_path / "out"
    out.mkdir()
    weights = (str(tiny_sd21), str(multiview_adapters)) if model else ("", "")
    arguments = (str(out), *weights)
    seen = in_window(out, "--enable-event-simulate", "--python", str(HERE / "real_window_texture.py"), "--", *arguments)
    assert "error" not in seen, seen["error"]
    assert seen["failure"] is None
    assert seen["started"] == ["FINISHED"]
    assert seen["before"] == [["Material"], [], 1, "OBJECT"]
    assert seen["pressed"] == seen["before"], "nothing of the user's changes before the result is built"
    (material,), layers, scenes, mode = seen["built"]
    assert material != "Material"
    assert (layers, scenes, mode) == (["Panoform"], 1, "OBJECT")
    assert seen["undone"] == seen["before"]
    assert seen["redone"] == seen["built"]
    if not model:
        assert seen["rendering"]
        assert seen["camera failure"] is None
        assert (seen["camera"], seen["scenes"]) == ("Camera", ["Scene"])
