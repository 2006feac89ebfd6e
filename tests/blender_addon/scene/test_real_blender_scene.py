"""Scenes in the Blender application: `real_scene.py` and `real_render.py` run inside it."""

from pathlib import Path

import numpy as np
import pytest

from panoform.backend.io import results
from panoform.shared.imaging import sphere
from panoform.shared.maps import MAPS

HERE = Path(__file__).resolve().parents[1]


@pytest.mark.real_blender
@pytest.mark.every_blender
def test_build_save_reload_and_capture(real_blender, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    rays = sphere.directions(64, 128)
    box = (np.array([4.0, 3.0, 2.0]) / np.maximum(np.abs(rays), 1e-9)).min(axis=-1, keepdims=True).astype(np.float32)
    maps = {
        "distance": box, "normal": -rays, "albedo": 0.5 + 0.4 * rays, "roughness": box / 8, "metallic": box / 9,
    }  # fmt: skip
    np.savez(out / "maps.npz", **maps)
    for name, data in results.encode_maps(maps).items():
        (out / MAPS[name].filename).write_bytes(data)
    arguments = ("--background", "--factory-startup", "--python-exit-code", "3")
    output = real_blender(*arguments, "--python", str(HERE / "real_scene.py"), "--", str(out))
    assert "PANOFORM SCENE OK" in output


@pytest.mark.real_blender
@pytest.mark.every_blender
def test_a_window_renders_a_panorama_without_blocking(real_blender, tmp_path):
    script = ("--factory-startup", "--python", str(HERE / "real_render.py"), "--", str(tmp_path))
    seen = real_blender.in_window(tmp_path, *script)
    assert "error" not in seen, seen["error"]
    assert seen["running"]  # when `start` had returned
    assert seen["shape"] == [32, 64, 3]
    assert seen["mean"] == pytest.approx([0.2, 0.4, 0.8], abs=0.01)
    assert seen["after"] == seen["before"]
    assert seen["windows"] == 1
    assert seen["long one"]
    assert seen["stopped"]
    assert seen["after cancel"] == seen["before"]


@pytest.mark.real_blender
def test_a_length_is_measured_by_two_clicks(in_window, tmp_path):
    folder, out = tmp_path / "maps", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    rays = sphere.directions(64, 128)
    box = (np.array([4.0, 3.0, 2.0]) / np.maximum(np.abs(rays), 1e-9)).min(axis=-1, keepdims=True).astype(np.float32)
    for name, data in results.encode_maps({"distance": box, "albedo": 0.5 + 0.4 * rays}).items():
        (folder / MAPS[name].filename).write_bytes(data)
    script = ("--enable-event-simulate", "--python", str(HERE / "real_measure.py"), "--", str(out), str(folder))
    seen = in_window(out, *script)
    assert "error" not in seen, seen["error"]
    assert seen["before"] == [False, 1.0]
    assert seen["started"] == ["RUNNING_MODAL"]
    assert seen["after"] == [True, 1.0]  # Enter, with the length as it was
    kind, measured, length = seen["last"]
    assert kind == "PANOFORM_OT_set_scale"
    assert 0.1 < measured == length
    assert seen["operators"] == 1
    assert "PANOFORM_OT_measure_length" not in seen["modal"]
