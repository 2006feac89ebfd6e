"""`blender --command panoform texture`, called as Blender calls it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.blender_addon import command
from panoform.blender_addon.jobs.manager import Jobs


@pytest.fixture
def blend(set_up: Jobs, tmp_path: Path) -> Path:
    """A file with a cube and a camera."""
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.camera_add()
    path = tmp_path / "würfel.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    rgba = np.zeros((32, 32, 4), np.float32)
    rgba[8:24, 8:24] = (0.8, 0.2, 0.1, 1)
    image = oiio.ImageBuf(oiio.ImageSpec(32, 32, 4, oiio.UINT8))
    image.set_pixels(oiio.ROI(), rgba)
    assert image.write(str(tmp_path / "red.png"))
    return path


@pytest.mark.slow
def test_mesh_of_a_blend_is_textured(blend: Path, tmp_path: Path, capsys) -> None:
    saved = tmp_path / "textured.blend"
    options = ["--size", "128", "--view-size", "64", "--steps", "1", "--save", str(saved)]
    code = command.run(
        ["texture", "--blend", str(blend), "--object", "Cube", "--reference", str(tmp_path / "red.png"), *options]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    material = bpy.data.objects["Cube"].active_material
    assert material.name == "Panoform Cube"
    assert all(image.packed_file for image in bpy.data.images if image.source == "FILE" and image.name != "red.png")
    assert material["panoform_view_top"].size[0] == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--blend", "none.blend", "--object", "Cube", "--save", "x.blend"], 1, "no file none.blend"),
        (["--blend", "würfel.blend", "--object", "Ball", "--save", "x.blend"], 1, "Its mesh objects: Cube."),
        (["--blend", "würfel.blend", "--object", "Camera", "--save", "x.blend"], 1, "no mesh object 'Camera'"),
        (["--blend", "würfel.blend", "--object", "Cube", "--save", "x.blend"], 1, "neither a reference picture nor"),
        (["--blend", "würfel.blend", "--object", "Cube", "--save", "würfel.blend"], 1, "is a source"),
        (["--blend", "würfel.blend", "--object", "Cube", "--reference", "no.png", "--save", "x.blend"], 1, "no.png"),
        (["--blend", "würfel.blend", "--save", "x.blend"], 2, "--object"),
        (["--use-camera", "--reference", "red.png"], 2, "not allowed with"),
    ],
)
def test_error_is_printed_once(blend: Path, arguments, code, message, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    before = blend.read_bytes()
    assert command.run(["texture", *arguments]) == code
    ctypes.CDLL(None).fflush(None)  # Blender's own output
    printed = capfd.readouterr()
    count = (printed.out + printed.err).count(message)
    assert count == 1 if code == 1 else count, printed
    assert blend.read_bytes() == before
    assert not (tmp_path / "x.blend").exists()
