"""Environments that the Blender application exports, loaded back by the bpy module."""

from __future__ import annotations

from pathlib import Path

import bpy
import pytest
import room_folder
from exported import DIFFUSE_COLOUR, decibels, load, seen

#: Debian's Blender 5.2 has no exporter of USD.
SUFFIXES = (".glb", ".obj", ".fbx")


@pytest.mark.real_blender
def test_exported_files_look_the_same(blender, addon, tmp_path: Path) -> None:
    maps = room_folder.write(tmp_path / "my room", room_folder.maps(64), room_folder.panorama(64))
    bpy.ops.panoform.build_scene(directory=str(maps), kind="MESH", camera_height=room_folder.CAMERA_M)
    expected = seen(tmp_path / "expected.exr")
    saved, files = tmp_path / "room.blend", [tmp_path / f"room{suffix}" for suffix in SUFFIXES]
    options = ["--save", str(saved), *(part for file in files for part in ("--export", str(file)))]
    command = ("--background", "--command", "panoform", "build", "--maps", str(maps))
    blender(*command, "--camera-height", str(room_folder.CAMERA_M), *options)
    found = {}
    for file in files:
        load(file)
        found[file.suffix] = seen(tmp_path / f"{file.name}.exr")
    for suffix, channels in found.items():
        assert decibels(channels[DIFFUSE_COLOUR], expected[DIFFUSE_COLOUR]) > 50, suffix
        assert decibels(channels["Combined"], expected["Combined"]) > 30, suffix
    with pytest.raises(AssertionError, match=r"not a result of Panoform: room\.blend"):  # the exit code is not 0
        blender(*command, *options)
