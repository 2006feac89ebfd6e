"""`panoform light` on a room rendered by Cycles with exact maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.cli.main import main
from panoform.backend.io import panoramas
from panoform.shared.imaging.colour import LUMINANCE, srgb_from_linear
from panoform.shared.imaging.sphere import solid_angles

ROOM = Path(__file__).parents[2] / "scenes" / "room"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """The room's light, clipped at 3 % to 8 bits."""
    light, _ = panoramas.read(ROOM / "panorama.exr")
    light = light / np.quantile(light.max(-1), 0.97)
    path = tmp_path / "room.png"
    buffer = oiio.ImageBuf(np.ascontiguousarray(srgb_from_linear(light.clip(0, 1)), np.float32))
    buffer.set_write_format("uint8")
    assert buffer.write(str(path))
    return path


@pytest.mark.slow
def test_the_light_of_a_room_is_solved_by_its_maps(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, sheet = tmp_path / "out" / "light.exr", tmp_path / "out" / "sheet.png"
    assert main(["light", str(picture), "--maps", str(ROOM), "--out", str(out), "--sheet", str(sheet), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(out.with_suffix(".json").read_text())
    assert 0 < record["confidence"] < 1
    assert record["points"] > 100
    true, _ = panoramas.read(ROOM / "panorama.exr")
    true = true / np.quantile(true.max(-1), 0.97)
    light, encoding = panoramas.read(out)
    assert encoding == "linear"
    plain = true.clip(0, 1)
    energy = [float((pixels @ LUMINANCE * solid_angles(*pixels.shape[:2])).sum()) for pixels in (plain, light, true)]
    assert energy[0] < energy[1]
    assert abs(energy[1] / energy[2] - 1) < abs(energy[0] / energy[2] - 1)
    colours = oiio.ImageBuf(str(sheet)).get_pixels(oiio.FLOAT)
    assert colours.shape == (512, 1024, 3)


@pytest.mark.slow
def test_files_that_exist_are_kept(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A user's file is replaced with --overwrite only, a result of the command also without, a source never."""
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("distance.exr", "normal.exr", "albedo.png"):
        shutil.copy(ROOM / name, maps)
    out, sheet = tmp_path / "light.exr", tmp_path / "sheet.png"

    def light(*more: str, out: Path = out, sheet: Path = sheet) -> int:
        return main(["light", str(picture), "--maps", str(maps), "--out", str(out), "--sheet", str(sheet), *more])

    for path in (out, sheet, out.with_suffix(".json")):
        path.write_bytes(b"mine")
        assert light() == 1
        assert "--overwrite" in capsys.readouterr().err
        assert path.read_bytes() == b"mine"
        path.unlink()
        assert not list(tmp_path.glob("light.*"))
    out.write_bytes(b"mine")
    assert light("--overwrite") == 0
    assert light() == 0
    sheet.write_bytes(b"painted on")
    capsys.readouterr()
    assert light() == 1
    assert "sheet.png" in capsys.readouterr().err
    assert sheet.read_bytes() == b"painted on"

    (tmp_path / "link.exr").symlink_to(maps / "normal.exr")
    for source, paths in (
        (picture, {"sheet": picture}),
        (maps / "distance.exr", {"out": maps / "distance.exr"}),
        (maps / "albedo.png", {"sheet": maps / "albedo.png"}),
        (maps / "normal.exr", {"out": tmp_path / "link.exr"}),
    ):
        content = source.read_bytes()
        assert light("--overwrite", **paths) == 1
        assert "is a source" in capsys.readouterr().err
        assert source.read_bytes() == content


def test_maps_that_cannot_measure_are_named(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    shutil.copy(ROOM / "distance.exr", maps)
    assert main(["light", str(picture), "--maps", str(maps), "--out", str(tmp_path / "light.exr")]) == 1
    assert "distance, normal, albedo" in capsys.readouterr().err


def test_linear_light_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = str(ROOM / "panorama.exr")
    assert main(["light", source, "--maps", str(ROOM), "--out", str(tmp_path / "light.exr")]) == 1
    assert "linear light" in capsys.readouterr().err


@pytest.mark.slow
def test_without_maps_the_starter_perceives_them(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "light.exr"
    assert main(["light", str(picture), "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["maps"] == "starter"
    assert record["confidence"] > 0
