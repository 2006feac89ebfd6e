"""Environments as assets."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest
import room_folder

from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import assets
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear


@pytest.fixture
def built(addon: Jobs, scene, tmp_path: Path) -> bpy.types.Collection:
    """A dome, beside an asset of the user's."""
    mine = bpy.data.objects.new("mine", None)
    scene.collection.objects.link(mine)
    rays = sphere.directions(64, 128)
    maps = room_folder.write(tmp_path / "my room", room_folder.maps(64), (0.4 + 0.3 * rays).astype(np.float32))
    bpy.ops.panoform.build_scene(directory=str(maps), kind="DOME")
    return bpy.data.collections["Panoform my room"]


@pytest.mark.slow
def test_environment_and_world_are_assets(built, scene, tmp_path) -> None:
    blend = tmp_path / "file" / "room.blend"
    blend.parent.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    assert bpy.ops.panoform.mark_as_asset() == {"FINISHED"}
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    collection, world = bpy.data.collections["Panoform my room"], bpy.context.scene.world
    for block in (collection, world):
        data = block.asset_data
        assert data.catalog_id == assets.CATALOGUE_ID
        assert "panorama" in data.description
        assert {"Panoform", "Environment"} <= {tag.name for tag in data.tags}
        # The preview shows what lies ahead, +X, left at the left.
        width, height = block.preview.image_size
        pixels = np.array(block.preview.image_pixels_float, np.float32).reshape(height, width, 4)
        for u, v in ((0.5, 0.5), (0.1, 0.5), (0.5, 0.9)):
            lon, lat = (0.5 - u) * np.pi / 2, (v - 0.5) * np.pi / 2
            ray = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
            shown = pixels[int(v * height), int(u * width), :3]
            np.testing.assert_allclose(shown, srgb_from_linear(0.4 + 0.3 * ray), atol=0.03)
    assert not any(thing.asset_data for thing in bpy.data.objects)
    lines = (blend.parent / assets.CATALOGUE_FILE).read_text().splitlines()
    assert "VERSION 1" in lines
    assert f"{assets.CATALOGUE_ID}:Panoform/Environments:Panoform-Environments" in lines


def test_catalogue_is_added_to_an_existing_file(tmp_path) -> None:
    path = tmp_path / assets.CATALOGUE_FILE
    mine = "# mine\r\nVERSION 1\r\n\r\n11111111-1111-4111-8111-111111111111:Möbel/Stühle:Stühle"
    path.write_bytes(mine.encode())
    assert assets.write_catalogue(tmp_path) == path
    text = path.read_bytes().decode()
    assert text.startswith(mine)
    assert text.splitlines()[-1].startswith(assets.CATALOGUE_ID)
    assert assets.write_catalogue(tmp_path) is None
    assert path.read_bytes().decode() == text


def test_file_that_is_not_saved_has_no_catalogue(built, scene, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {entry.name for entry in tmp_path.iterdir()}
    assert bpy.ops.panoform.mark_as_asset() == {"FINISHED"}
    assert built.asset_data is not None
    assert {entry.name for entry in tmp_path.iterdir()} == before
    scene.world = bpy.data.worlds.new("mine")
    with pytest.raises(RuntimeError, match="no HDRI"):
        bpy.ops.panoform.mark_as_asset()


def test_catalogue_lines_of_another_encoding_are_kept(tmp_path: Path) -> None:
    path = tmp_path / assets.CATALOGUE_FILE
    path.write_bytes(b"VERSION 1\n\n# M\xf6bel\n")
    assert assets.write_catalogue(tmp_path) == path
    assert path.read_bytes().startswith(b"VERSION 1\n\n# M\xf6bel\n")
    assert assets.write_catalogue(tmp_path) is None


def test_catalogue_that_is_a_link_is_written_where_it_leads(tmp_path: Path) -> None:
    shared, folder = tmp_path / "shared", tmp_path / "project"
    shared.mkdir()
    folder.mkdir()
    link = folder / assets.CATALOGUE_FILE
    try:
        link.symlink_to(shared / "cats.txt")
    except OSError:
        pytest.skip("Links may not be made here.")
    assert assets.write_catalogue(folder) == link  # it leads to no file yet
    (shared / "cats.txt").write_text("VERSION 1\n\n# mine\n")
    assert assets.write_catalogue(folder) == link
    assert link.is_symlink()
    text = (shared / "cats.txt").read_text()
    assert text.startswith("VERSION 1\n\n# mine\n")
    assert assets.CATALOGUE_ID in text
    assert sorted(entry.name for entry in (*shared.iterdir(), *folder.iterdir())) == [assets.CATALOGUE_FILE, "cats.txt"]
