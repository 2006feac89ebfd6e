"""Exported environments, loaded back into an empty file, against the scenes they were exported from."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import analytic_room as room
import bpy
import gltf_points
import numpy as np
import pytest
import room_folder
from exported import DIFFUSE_COLOUR, decibels, load, seen

from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import environment, export

SCENES = Path(__file__).parents[2] / "scenes"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "my room"
    maps = room_folder.maps(64) | {"semantic": room_folder.semantic(64)}
    return room_folder.write(path, maps, room_folder.panorama(64))


def build(folder: Path, kind: str = "MESH") -> bpy.types.Object:
    bpy.ops.panoform.build_scene(directory=str(folder), kind=kind, camera_height=room_folder.CAMERA_M)
    return bpy.context.view_layer.objects.active


def state() -> dict:
    kinds = ("scenes", "objects", "meshes", "materials", "worlds", "images", "cameras", "lights", "collections")
    context = bpy.context
    return {kind: set(getattr(bpy.data, kind)) for kind in kinds} | {
        "names": sorted(thing.name for kind in kinds for thing in getattr(bpy.data, kind)),
        "scene": context.scene, "layer": context.view_layer.name, "active": context.view_layer.objects.active,
        "selected": list(context.selected_objects), "mode": context.mode, "world": context.scene.world,
    }  # fmt: skip


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("room.glb", "MESH"),
        pytest.param("room.gltf", "MESH", marks=SLOW),
        pytest.param("room.usdc", "MESH", marks=SLOW),
        pytest.param("room.usdz", "MESH", marks=SLOW),
        pytest.param("room.obj", "MESH", marks=SLOW),
        pytest.param("room.fbx", "MESH", marks=SLOW),
        pytest.param("dome.glb", "DOME", marks=SLOW),
        pytest.param("things.glb", "OBJECTS", marks=SLOW),
    ],
)
def test_loaded_back_it_looks_the_same(addon: Jobs, scene, folder, tmp_path, name: str, kind: str) -> None:
    body = build(folder, kind)
    mine = bpy.data.objects.new("mine", bpy.data.meshes.new("mine"))
    scene.collection.objects.link(mine)
    parts = {thing.name.replace(" ", "_") for thing in environment.parts(body) if thing.type == "MESH"}
    assert len(parts) == (3 if kind == "OBJECTS" else 1)
    before = state()
    out = tmp_path / name
    assert bpy.ops.panoform.export_scene(filepath=str(out)) == {"FINISHED"}
    assert state() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {
        target.name for target in export._targets(out, export.FORMATS[out.suffix])
    }
    if kind == "DOME":  # invisible to light in Blender only
        body.visible_diffuse = body.visible_shadow = True
    expected = seen(tmp_path / "expected.exr")
    load(out)
    assert "mine" not in bpy.data.objects
    names = {thing.name for thing in bpy.data.objects if thing.type == "MESH"}
    has_sky = kind != "DOME" and not out.suffix.startswith(".usd")
    assert names == parts | ({"Sky"} if has_sky else set())
    found = seen(tmp_path / "found.exr")
    assert decibels(found[DIFFUSE_COLOUR], expected[DIFFUSE_COLOUR]) > 50
    assert decibels(found["Combined"], expected["Combined"]) > 30


@SLOW
def test_perceived_normals_look_the_same(addon: Jobs, scene, tmp_path) -> None:
    """Maps with noise: where the normals and the mesh disagree, those of the mesh are mixed in."""
    build(SCENES / "room")
    assert "room mesh confidence" in bpy.data.images
    bpy.ops.panoform.export_scene(filepath=str(tmp_path / "room.glb"))
    expected = seen(tmp_path / "expected.exr")
    load(tmp_path / "room.glb")
    found = seen(tmp_path / "found.exr")
    assert decibels(found[DIFFUSE_COLOUR], expected[DIFFUSE_COLOUR]) > 45
    assert decibels(found["Combined"], expected["Combined"]) > 28


def tree(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])


@pytest.mark.slow
def test_axes_of_gltf_and_names_that_are_taken(addon: Jobs, scene, folder, tmp_path) -> None:
    """Up is +Y, the panorama's centre +X, its left −Z: the room isn't alike on any two sides."""
    body = build(folder)
    mine = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "POINT"))
    scene.collection.children[0].objects.link(mine)
    out = tmp_path / "room.glb"
    bpy.ops.panoform.export_scene(filepath=str(out))
    raised = np.array((0, 0, room_folder.CAMERA_M))
    low, high = room.LOW + raised, room.HIGH + raised
    points = gltf_points.points(out)["my_room_mesh"]
    assert _on_walls(points, np.array((low[0], low[2], -high[1])), np.array((high[0], high[2], -low[1]))).min() > 20
    names = {node["name"] for node in tree(out)["nodes"]}
    assert {"my_room_mesh", "lamp"} <= names
    assert not {name for name in names if name.endswith(".001")}
    assert (body.name, mine.name) == ("my room mesh", "lamp")
    load(out)
    mesh = bpy.data.objects["my_room_mesh"]
    corners = np.array([mesh.matrix_world @ vertex.co for vertex in mesh.data.vertices])
    assert _on_walls(corners, low, high).min() > 20


def _on_walls(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return how many points (N, 3) lie on each side of a box, (2, 3), from its corners."""
    inside = points[((points > low - 0.02) & (points < high + 0.02)).all(axis=1)]
    return np.stack([(np.abs(inside - corner) < 0.02).sum(axis=0) for corner in (low, high)])


@pytest.mark.slow
def test_gltf_has_what_viewers_need(addon: Jobs, scene, folder, tmp_path) -> None:
    build(folder)
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "SUN"))
    scene.collection.children[0].objects.link(lamp)
    out = tmp_path / "room.glb"
    bpy.ops.panoform.export_scene(filepath=str(out))
    found = tree(out)
    materials = {material["name"]: material for material in found["materials"]}
    visible = materials["my_room_mesh"]
    assert {"normalTexture", "pbrMetallicRoughness"} <= visible.keys()
    assert {"baseColorTexture", "metallicRoughnessTexture"} <= visible["pbrMetallicRoughness"].keys()
    assert not any(material.get("doubleSided") for material in materials.values())
    lamps = materials["my_room_mesh_lamps"]
    strength = lamps["extensions"]["KHR_materials_emissive_strength"]["emissiveStrength"]
    assert strength == pytest.approx(room_folder.LAMP_LIGHT, rel=0.01)
    body = next(mesh for mesh in found["meshes"] if mesh["name"] == "my_room_mesh")
    assert {"NORMAL", "TANGENT", "TEXCOORD_0"} <= body["primitives"][0]["attributes"].keys()
    assert len(found["extensions"]["KHR_lights_punctual"]["lights"]) == 1
    assert len(found["cameras"]) == 1
    assert {"Sky", "my_room_mesh", "my_room_camera"} < {node["name"] for node in found["nodes"]}
    node = next(node for node in found["nodes"] if node["name"] == "my_room_mesh")
    assert node["translation"][1] == pytest.approx(room_folder.CAMERA_M)

    validator = os.environ.get("PANOFORM_GLTF_VALIDATOR")
    if validator and shutil.which("node"):
        script = (
            "const v = require(process.argv[1]), fs = require('fs');"
            "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))"
            ".then(report => console.log(JSON.stringify(report.issues)))"
        )
        done = subprocess.run(["node", "-e", script, validator, str(out)], capture_output=True, text=True, check=True)
        issues = json.loads(done.stdout)
        assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues


@pytest.mark.slow
@pytest.mark.parametrize("name", ["room.usdc", pytest.param("room.usdz", marks=SLOW)])
def test_usd_complies_and_has_the_light_of_the_world(addon: Jobs, scene, folder, tmp_path, name: str) -> None:
    build(folder)
    out = tmp_path / name
    bpy.ops.panoform.export_scene(filepath=str(out))
    bpy.utils.expose_bundled_modules()
    usd, lux, utils = (importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdLux", "UsdUtils"))

    checker = utils.ComplianceChecker()
    checker.CheckCompliance(str(out))
    assert (checker.GetErrors(), checker.GetFailedChecks()) == ([], [])
    stage = usd.Stage.Open(str(out))
    lights = [prim for prim in stage.Traverse() if prim.IsA(lux.DomeLight)]
    (texture,) = [lux.DomeLight(light).GetTextureFileAttr().Get() for light in lights]
    assert texture.resolvedPath


# Files


def test_existing_files_are_kept(addon: Jobs, scene, folder, tmp_path) -> None:
    build(folder)
    before = state()
    out = tmp_path / "room.obj"
    (tmp_path / "room.mtl").write_text("mine")
    for confirmed in (False, True):
        with pytest.raises(RuntimeError, match=r"room\.mtl exists"):
            bpy.ops.panoform.export_scene(filepath=str(out), is_confirmed=confirmed)
    assert [entry.name for entry in tmp_path.iterdir()] == ["room.mtl"]
    assert (tmp_path / "room.mtl").read_text() == "mine"
    bpy.ops.panoform.export_scene(filepath=str(out), overwrite=True)
    assert "newmtl" in (tmp_path / "room.mtl").read_text()
    with pytest.raises(RuntimeError, match=r"room\.obj exists"):
        bpy.ops.panoform.export_scene(filepath=str(out))
    (tmp_path / "room_obj_textures" / "mine.txt").write_text("mine")
    bpy.ops.panoform.export_scene(filepath=str(out), is_confirmed=True)
    assert (tmp_path / "room_obj_textures" / "mine.txt").read_text() == "mine"
    assert state() == before
    out.write_text("another program's, without materials")
    (tmp_path / "room.mtl").write_text("mine")
    with pytest.raises(RuntimeError, match=r"room\.mtl exists"):
        bpy.ops.panoform.export_scene(filepath=str(out), is_confirmed=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {"room.obj", "room.mtl", "room_obj_textures"}


@pytest.mark.slow
def test_failure_leaves_nothing(addon: Jobs, scene, folder, tmp_path, monkeypatch) -> None:
    build(folder)
    before = state()
    with monkeypatch.context() as patch:
        broken = export.FORMATS[".obj"]._replace(options={"collection": "none such"})
        patch.setitem(export.FORMATS, ".obj", broken)
        with pytest.raises(RuntimeError, match="can't export OBJ"):
            bpy.ops.panoform.export_scene(filepath=str(tmp_path / "room.obj"))
    assert state() == before
    assert not list(tmp_path.iterdir())
    for name, message in (("room.stl", "no format"), ("room", "no format"), ("none/room.glb", "no folder")):
        with pytest.raises(RuntimeError, match=message):
            bpy.ops.panoform.export_scene(filepath=str(tmp_path / name))
    body = bpy.context.view_layer.objects.active
    body.data.materials[0].node_tree.nodes.clear()
    with pytest.raises(RuntimeError, match="no Principled BSDF"):
        bpy.ops.panoform.export_scene(filepath=str(tmp_path / "room.glb"))
    assert state() == before
    assert not list(tmp_path.iterdir())


def test_nothing_to_export(addon: Jobs, scene, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="No environment was built"):
        bpy.ops.panoform.export_scene(filepath=str(tmp_path / "room.glb"))
