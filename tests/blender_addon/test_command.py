"""`blender --command panoform`, called as Blender calls it (the application itself: test_real_blender.py)."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import analytic_room
import bpy
import numpy as np
import OpenImageIO as oiio
import pytest
import room_folder

from panoform.blender_addon import command
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared import json_file
from panoform.shared.jobs.perceive import Info


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    path = tmp_path / "größe of a room.png"
    image = oiio.ImageBuf(oiio.ImageSpec(128, 64, 3, oiio.UINT8))
    image.set_pixels(oiio.ROI(), np.random.default_rng(0).uniform(0, 1, (64, 128, 3)).astype(np.float32))
    assert image.write(str(path))
    return path


@pytest.mark.slow
def test_perceive_and_import(addon: Jobs, panorama: Path, tmp_path: Path, capsys) -> None:
    out, saved = tmp_path / "maps", tmp_path / "sch ön.blend"
    code = command.run(
        ["perceive", "--panorama", str(panorama), "--save", str(saved), "--maps", "distance,albedo",
         "--quality", "draft", "--seed", "3", "--out", str(out), "--engine", "starter", "--kind", "dome"]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "Panoform: Distance" in printed.out
    assert {path.name for path in out.iterdir()} == {"distance.exr", "albedo.png", "panorama.png", "maps.json"}
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    assert bpy.data.objects.get("größe of a room dome") is not None
    assert all(image.packed_file for image in bpy.data.images if image.users and image.source == "FILE")

    again = tmp_path / "again.blend"
    assert command.run(["import", "--directory", str(out), "--save", str(again), "--camera-height", "2"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(again))
    assert bpy.data.objects.get("maps dome") is not None


@pytest.mark.slow
def test_batch_writes_a_summary_and_tells_what_failed(addon: Jobs, panorama: Path, tmp_path: Path, capfd) -> None:
    folder, out = panorama.parent / "panoramas", tmp_path / "out"
    folder.mkdir()
    panorama.rename(folder / panorama.name)
    (folder / "broken.png").write_bytes(b"nothing")
    given = ["batch", str(folder), "--out", str(out), "--maps", "distance", "--quality", "draft", "--seed", "3"]
    assert command.run(given) == 1
    printed = capfd.readouterr().out
    assert "[1/2] broken.png: failed: " in printed
    assert "[2/2] größe of a room.png: distance in " in printed
    info = json_file.read(out / "größe of a room" / "maps.json", Info)
    assert (info.seed, info.engine, info.size) == (3, "starter", (128, 256))
    assert (out / "summary.html").is_file()


def test_batch_as_a_job_type_of_flamenco_starts_blender(addon: Jobs, panorama: Path, tmp_path: Path) -> None:
    to = tmp_path / "panoform_batch.js"
    given = ["batch", str(panorama.parent), "--out", str(tmp_path / "out"), "--quality", "draft", "--maps", "distance"]
    assert command.run([*given, "--job-template", "flamenco", "--to", str(to)]) == 0
    text = to.read_text("utf-8")
    assert 'const COMMAND = ["{blender}","--background","--command","panoform","batch"];' in text
    (line,) = [line for line in text.splitlines() if line.startswith("const OPTIONS")]
    assert json.loads(line.partition(" = ")[2].rstrip(";")) == ["--maps=distance", "--quality=draft", "--seed=0"]


@pytest.mark.slow
def test_build(addon: Jobs, tmp_path: Path, capsys) -> None:
    folder, saved = room_folder.write(tmp_path / "zimmer"), tmp_path / "room.blend"
    options = ["--kind", "MESH", "--save", str(saved), "--camera-height", "3.2", "--triangles", "5000"]
    code = command.run(["build", "--maps", str(folder), *options])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "Panoform: Building the mesh" in printed.out
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    body = bpy.data.objects["zimmer mesh"]
    assert body.matrix_world.translation.z == pytest.approx(3.2)
    again = ["build", "--maps", str(folder), "--kind", "DOME", "--save", str(saved), "--scale", "2"]
    work = saved.read_bytes()
    assert command.run(again) == 1
    assert "not a result of Panoform: room.blend" in capsys.readouterr().err
    assert saved.read_bytes() == work  # it may hold the user's work since
    assert command.run([*again, "--overwrite"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    # The maps are in metres, with the camera 1.6 m over the floor.
    assert bpy.data.objects["zimmer dome"].matrix_world.translation.z == pytest.approx(3.2, rel=0.01)


@pytest.mark.slow
def test_build_with_lamps_as_lights(addon: Jobs, tmp_path: Path, capsys) -> None:
    """The lamp of the room's ceiling becomes an area light above the camera, whose power is π · area · radiance."""
    folder, saved = room_folder.write(tmp_path / "zimmer", room_folder.maps(64)), tmp_path / "room.blend"
    options = ["--save", str(saved), "--triangles", "5000", "--texture-width", "512", "--lamps-as-lights"]
    code = command.run(["build", "--maps", str(folder), *options])
    assert code == 0, capsys.readouterr().err
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    (light,) = [thing for thing in bpy.data.objects if thing.type == "LIGHT"]
    above = float(analytic_room.HIGH[2])
    area = np.pi * (above * np.tan(np.arccos(room_folder.LAMP_COSINE))) ** 2
    assert light.data.type == "AREA"
    np.testing.assert_allclose(light.matrix_world.translation, (0, 0, room_folder.CAMERA_M + above), atol=0.05)
    assert light.data.energy == pytest.approx(np.pi * area * room_folder.LAMP_LIGHT, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["perceive", "--panorama", "nope.png", "--save", "x.blend"], 1, "There is no file"),
        (["perceive", "--panorama", "nope.png", "--save", "x.blend", "--maps", "depth"], 1, "No map is called 'depth'"),
        (["perceive", "--panorama", "nope.png", "--save", "none/x.blend"], 1, "There is no folder"),
        (["import", "--directory", "nope", "--save", "x.blend"], 1, "There is no folder"),
        (["build", "--maps", "nope", "--save", "x.blend"], 1, "There is no folder"),
        (["build", "--maps", "nope", "--save", "x.blend", "--texture-width", "9999"], 1, "The width of textures"),
        (["build", "--maps", "nope", "--save", "x.blend", "--kind", "THINGS"], 2, "THINGS"),
        (["perceive", "--save", "x.blend"], 2, "--panorama"),
        (["perceive", "--panorama", "p", "--save", "x.blend", "--quality", "ultra"], 2, "ultra"),
        (["fly"], 2, "fly"),
    ],
)
def test_error_is_printed_once(addon: Jobs, arguments, code, message, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run(arguments) == code
    ctypes.CDLL(None).fflush(None)  # Blender's own output
    printed = capfd.readouterr()
    count = (printed.out + printed.err).count(message)
    assert count == 1 if code == 1 else count, printed
    assert not list(tmp_path.iterdir())


def test_help(capsys) -> None:
    assert command.run(["--help"]) == 0
    assert "perceive" in capsys.readouterr().out


@pytest.mark.slow
def test_build_and_export(addon: Jobs, tmp_path: Path, capfd) -> None:
    folder, saved = room_folder.write(tmp_path / "zimmer", room_folder.maps(64)), tmp_path / "room.blend"
    files = [tmp_path / "room.glb", tmp_path / "room.fbx"]
    options = ["build", "--maps", str(folder), "--save", str(saved)]
    options += [part for file in files for part in ("--export", str(file))]
    assert command.run(options) == 0, capfd.readouterr().err
    assert all(file.stat().st_size > 100_000 for file in files)
    saved.unlink()
    assert command.run(options) == 1
    ctypes.CDLL(None).fflush(None)  # Blender's own output
    printed = capfd.readouterr()
    assert "room.glb exists" in printed.out + printed.err
    assert not saved.exists()
    assert command.run([*options, "--overwrite"]) == 0
