"""`panoform mesh` on maps of a room known exactly, its file read by Blender's glTF importer and from its own JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import analytic_room as room
import bpy
import gltf_points
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from panoform.backend.cli.main import main
from panoform.backend.io import panoramas
from panoform.backend.io.encoding import encode_image
from panoform.backend.perception.palette import PALETTE
from panoform.backend.scene import gltf
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear

HEIGHT, SHARP = 128, 256
#: Metres; the room's own camera is at 1.6 m, so that the scene is 1.25 times the room.
CAMERA_HEIGHT = 2.0
SCALE = CAMERA_HEIGHT / 1.6
LAMP = 20.0


def write(folder: Path, filename: str, pixels: np.ndarray, colorspace: str = "Non-Color") -> None:
    folder.mkdir(exist_ok=True)
    (folder / filename).write_bytes(encode_image(filename, pixels.astype(np.float32), colorspace))


def colour(rays: np.ndarray) -> np.ndarray:
    """Return a base colour that tells the direction, sRGB."""
    return rays * 0.4 + 0.5


def write_maps(folder: Path) -> None:
    exact, rays = room.maps(HEIGHT), sphere.directions(HEIGHT, 2 * HEIGHT)
    write(folder, "distance.exr", exact.distance[..., None])
    write(folder, "normal.exr", exact.normal)
    write(folder, "albedo.png", colour(rays), "sRGB")
    write(folder, "roughness.png", rays[..., 2:] * 0.3 + 0.5)
    write(folder, "metallic.png", rays[..., 1:2] * 0.3 + 0.4)
    light = sphere.directions(SHARP, 2 * SHARP) * 0.3 + 0.5
    light[: SHARP // 16] = LAMP
    write(folder, "panorama.exr", light)


class Written(NamedTuple):
    folder: Path
    file: Path
    record: dict[str, Any]
    #: The JSON of the .glb, and the binary chunk.
    tree: dict[str, Any]
    binary: bytes

    def image(self, texture: dict[str, int]) -> np.ndarray:
        """Return the pixels of a texture, (H, W, 3) float32 as stored."""
        source = self.tree["images"][self.tree["textures"][texture["index"]]["source"]]
        view = self.tree["bufferViews"][source["bufferView"]]
        path = self.file.with_suffix(source["mimeType"].replace("image/", "."))
        path.write_bytes(self.binary[view["byteOffset"] :][: view["byteLength"]])
        pixels = oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT)
        assert pixels is not None
        return pixels

    def material(self, name: str) -> dict[str, Any]:
        (found,) = [material for material in self.tree["materials"] if material["name"] == name]
        return found


def parsed(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    magic, version, length, size = struct.unpack("<4I", data[:16])
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    return json.loads(data[20 : 20 + size]), data[28 + size :]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("maps ö")
    write_maps(folder)
    out = tmp_path_factory.mktemp("out") / "new" / "room ö.glb"
    command = ["mesh", str(folder), "--out", str(out), "--camera-height", str(CAMERA_HEIGHT), "--json"]
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stdout):
        assert main(command) == 0
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    return Written(folder, out, json.loads(stdout.buffer.getvalue()), *parsed(out))


class Imported(NamedTuple):
    """A part in Blender."""

    object: bpy.types.Object
    #: In the world: corners of the triangles, (T, 3, 3); their UVs (T, 3, 2) and normals (T, 3, 3).
    corners: np.ndarray
    uv: np.ndarray
    normals: np.ndarray


@pytest.fixture(scope="module")
def imported(written) -> dict[str, Imported]:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.import_scene.gltf(filepath=str(written.file))
    found = {}
    for thing in bpy.context.scene.objects:
        if thing.type != "MESH":
            continue
        mesh, world = thing.data, np.array(thing.matrix_world)
        count = len(mesh.loops)
        assert count == 3 * len(mesh.polygons)
        place, vertex = np.empty(3 * len(mesh.vertices), np.float32), np.empty(count, np.int32)
        uv, normals = np.empty(2 * count, np.float32), np.empty(3 * count, np.float32)
        mesh.vertices.foreach_get("co", place)
        mesh.loops.foreach_get("vertex_index", vertex)
        mesh.uv_layers[0].uv.foreach_get("vector", uv)
        mesh.corner_normals.foreach_get("vector", normals)
        positions = place.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]
        found[thing.name] = Imported(
            thing, positions[vertex].reshape(-1, 3, 3), uv.reshape(-1, 3, 2),
            (normals.reshape(-1, 3) @ world[:3, :3].T).reshape(-1, 3, 3),
        )  # fmt: skip
    return found


def surfaces(imported: dict[str, Imported]) -> np.ndarray:
    return np.concatenate([part.corners for name, part in imported.items() if name != "Sky"])


@pytest.mark.slow
def test_record_tells_how_it_was_made(written) -> None:
    assert written.record["triangles"] == sum(
        written.tree["accessors"][mesh["primitives"][0]["indices"]]["count"] // 3
        for mesh in written.tree["meshes"]
        if mesh["name"] != "Sky"
    )
    assert written.record["scale"] == pytest.approx(SCALE, rel=0.01)
    assert written.record["has_floor"] is True
    assert written.record["settings"]["camera_height_m"] == CAMERA_HEIGHT


@pytest.mark.slow
def test_parts_with_one_primitive_each(written, imported) -> None:
    names = [mesh["name"] for mesh in written.tree["meshes"]]
    assert names[:2] == ["Visible", "Hidden"]
    assert names[-1] == "Sky"
    assert set(names) == set(imported)
    assert all(len(mesh["primitives"]) == 1 for mesh in written.tree["meshes"])
    assert all(set(mesh["primitives"][0]["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
               for mesh in written.tree["meshes"])  # fmt: skip
    assert written.tree["extensionsUsed"] == [gltf.STRENGTH, gltf.UNLIT]
    assert "extensionsRequired" not in written.tree
    assert all(texture["sampler"] == 0 for texture in written.tree["textures"])


def test_floor_is_the_ground_and_walls_are_metres_apart(imported) -> None:
    corners = imported["Visible"].corners.reshape(-1, 3)
    low, high = room.LOW * SCALE + (0, 0, CAMERA_HEIGHT), room.HIGH * SCALE + (0, 0, CAMERA_HEIGHT)
    np.testing.assert_allclose(np.quantile(corners, 0.02, axis=0), low, atol=0.03)
    np.testing.assert_allclose(np.quantile(corners, 0.98, axis=0), high, atol=0.03)
    assert low[2] == pytest.approx(0)
    assert all(part.object.matrix_world.translation.z == pytest.approx(CAMERA_HEIGHT) for part in imported.values())


def test_axes_in_the_file_are_those_of_gltf(written) -> None:
    """Up is +Y, the panorama's centre +X, its left −Z: the room isn't alike on any two sides."""
    points = gltf_points.points(written.file)["Visible"] / SCALE
    raised = np.array((0, 0, 1.6))
    low, high = room.LOW + raised, room.HIGH + raised
    np.testing.assert_allclose(points.min(axis=0), (low[0], low[2], -high[1]), atol=0.03)
    np.testing.assert_allclose(points.max(axis=0), (high[0], high[2], -low[1]), atol=0.03)


def test_rays_from_the_camera_hit_at_the_true_distance(imported) -> None:
    corners = surfaces(imported)
    tree = BVHTree.FromPolygons(corners.reshape(-1, 3).tolist(), np.arange(corners.size // 3).reshape(-1, 3).tolist())
    rays = sphere.directions(24, 48).reshape(-1, 3)
    errors = []
    for ray, distance in zip(rays, room.cast(np.zeros(3), rays).distance * SCALE, strict=True):
        found = tree.ray_cast(Vector((0, 0, CAMERA_HEIGHT)), Vector(ray))[3]
        assert (found is None) == np.isinf(distance) or abs(ray[0]) > 0.8  # the window's outline lies at +X
        if found is not None and np.isfinite(distance):
            errors.append(abs(found / distance - 1))
    assert np.quantile(errors, 0.97) < 0.01


def test_faces_and_normals_turn_to_the_camera(imported) -> None:
    for name, part in imported.items():
        face = np.cross(part.corners[:, 1] - part.corners[:, 0], part.corners[:, 2] - part.corners[:, 0])
        towards = (0, 0, CAMERA_HEIGHT) - part.corners.mean(axis=1)
        area = np.linalg.norm(face, axis=1)
        proper = area > 1e-9
        facing = (face * towards).sum(-1)[proper] > 0
        assert facing.mean() > 0.99, name
        length = np.linalg.norm(part.normals, axis=-1)
        np.testing.assert_allclose(length, 1, atol=1e-3)
        along = (part.normals * face[:, None]).sum(-1)[proper] / area[proper, None]
        assert np.quantile(along, 0.01) > 0.6, name
    visible = imported["Visible"]
    floor = (np.abs(visible.corners[..., 2]) < 0.005).all(axis=1)
    assert floor.sum() > 100
    assert np.quantile(visible.normals[floor][..., 2], 0.02) > 0.99  # no smooth shading round the room's corners


def test_texture_shows_the_albedo_of_each_direction(written, imported) -> None:
    """Through the file's UVs and images, at the middle of each triangle."""
    part = imported["Visible"]
    base = written.material("Visible")["pbrMetallicRoughness"]
    pixels, packed = written.image(base["baseColorTexture"]), written.image(base["metallicRoughnessTexture"])
    assert pixels.shape == packed.shape == (SHARP, 2 * SHARP, 3)
    points = part.corners.mean(axis=1) - (0, 0, CAMERA_HEIGHT)
    rays = points / np.linalg.norm(points, axis=1, keepdims=True)
    uv = part.uv.mean(axis=1)  # Blender's v runs up
    row = ((1 - uv[:, 1]) * SHARP).astype(int).clip(0, SHARP - 1)
    column = (uv[:, 0] * 2 * SHARP).astype(int) % (2 * SHARP)
    away = np.abs(rays[:, 2]) < 0.9  # the lamp is there, whose edge isn't one of the albedo
    assert np.quantile(np.abs(pixels[row, column] - colour(rays))[away], 0.98) < 0.03
    assert np.quantile(np.abs(packed[row, column, 1] - (rays[:, 2] * 0.3 + 0.5))[away], 0.98) < 0.03
    assert np.quantile(np.abs(packed[row, column, 2] - (rays[:, 1] * 0.3 + 0.4))[away], 0.98) < 0.03
    assert (packed[..., 0] == 1).all()


def test_materials_in_the_file(written) -> None:
    visible, hidden = written.material("Visible"), written.material("Hidden")
    for material in (visible, hidden):
        assert material["doubleSided"] is False
        assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
        assert material["pbrMetallicRoughness"]["metallicFactor"] == 1
        assert "normalTexture" not in material
    strength = visible["extensions"][gltf.STRENGTH]["emissiveStrength"]
    assert strength == pytest.approx(LAMP, rel=0.01)
    assert visible["emissiveFactor"] == [1, 1, 1]
    emission = written.image(visible["emissiveTexture"])
    assert emission[0].min() == 1
    assert not emission[len(emission) // 2 :].any()
    assert "emissiveTexture" not in hidden


def test_materials_in_blender(imported) -> None:
    def principled(name: str) -> bpy.types.Node:
        (node,) = [n for n in imported[name].object.active_material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"]
        return node

    visible = principled("Visible")
    for socket in ("Base Color", "Roughness", "Metallic", "Emission Color"):
        assert visible.inputs[socket].is_linked, socket
    assert visible.inputs["Emission Strength"].default_value == pytest.approx(LAMP, rel=0.01)
    assert all(part.object.active_material.use_backface_culling for part in imported.values())
    images = {image.name: image for image in bpy.data.images if image.size[0]}
    assert len(images) == 2 * sum(name != "Sky" for name in imported) + 2  # and emission, and sky
    types = [node.type for node in imported["Sky"].object.active_material.node_tree.nodes]
    assert "BSDF_PRINCIPLED" not in types


def test_sky_shows_the_panorama_from_outside_the_mesh(written, imported) -> None:
    sky = imported["Sky"]
    points = sky.corners - (0, 0, CAMERA_HEIGHT)
    distance = np.linalg.norm(points, axis=-1)
    assert distance.min() > 1.5 * np.linalg.norm(surfaces(imported) - (0, 0, CAMERA_HEIGHT), axis=-1).max()
    material = written.material("Sky")
    assert set(material["extensions"]) == {gltf.UNLIT}
    pixels = written.image(material["pbrMetallicRoughness"]["baseColorTexture"])
    light, _ = panoramas.read(written.folder / "panorama.exr")
    assert pixels.shape == light.shape
    rays = points.mean(axis=1) / np.linalg.norm(points.mean(axis=1), axis=1, keepdims=True)
    row = ((1 - sky.uv.mean(axis=1)[:, 1]) * SHARP).astype(int)
    column = (sky.uv.mean(axis=1)[:, 0] * 2 * SHARP).astype(int)
    away = np.abs(rays[:, 2]) < 0.7
    seen = pixels[row, column][away]
    # Exposed by one factor, in linear light.
    factor = np.median(seen / srgb_from_linear(rays[away] * 0.3 + 0.5))
    shown = srgb_from_linear((rays[away] * 0.3 + 0.5) * factor**2.4)
    assert np.corrcoef(shown.ravel(), seen.ravel())[0, 1] > 0.99


def validator() -> Path | None:
    """Return the folder of the npm package gltf-validator, where PANOFORM_GLTF_VALIDATOR tells one."""
    folder = os.environ.get("PANOFORM_GLTF_VALIDATOR")
    return Path(folder) if folder and shutil.which("node") else None


@pytest.mark.skipif(validator() is None, reason="PANOFORM_GLTF_VALIDATOR names no gltf-validator, or there is no node")
def test_official_validator_has_no_complaint(written) -> None:
    script = (
        "const v = require(process.argv[1]), fs = require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))"
        ".then(report => console.log(JSON.stringify(report.issues)))"
    )
    done = subprocess.run(
        ["node", "-e", script, str(validator()), str(written.file)], capture_output=True, text=True, check=True
    )
    issues = json.loads(done.stdout)
    assert [issues[kind] for kind in ("numErrors", "numWarnings", "numInfos", "numHints")] == [0] * 4, issues


@pytest.fixture
def distance_only(tmp_path) -> Path:
    folder = tmp_path / "maps"
    write(folder, "distance.exr", room.maps(32).distance[..., None])
    return folder


def test_distance_alone_gives_a_grey_mesh_and_notices(distance_only, tmp_path, capsys) -> None:
    out = tmp_path / "grey.glb"
    assert main(["mesh", str(distance_only), "--out", str(out), "--triangles", "2000"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "There is no map of albedo and roughness and metallic and normal." in told.err.splitlines()
    assert told.err.splitlines()[-1].startswith(f"Wrote {out} (")
    assert "100 % Textures" in told.err.splitlines()
    tree, _ = parsed(out)
    assert {mesh["name"] for mesh in tree["meshes"]} <= {"Visible", "Hidden", "Hidden 2"}
    assert "images" not in tree
    assert "extensionsUsed" not in tree
    assert tree["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert gltf.generator(out).startswith("Panoform ")


def test_files_of_others_are_kept_and_own_ones_replaced(distance_only, tmp_path, capsys) -> None:
    out = tmp_path / "scene.glb"
    command = ["mesh", str(distance_only), "--out", str(out)]
    foreign = struct.pack("<5I", 0x46546C67, 2, 62, 42, 0x4E4F534A) + b'{"asset":{"version":"2.0","generator":"x"}}'
    for content in (b"mine", b"", foreign):
        out.write_bytes(content)
        assert main(command) == 1
        assert "not a result of Panoform: scene.glb" in capsys.readouterr().err
        assert out.read_bytes() == content
    assert main([*command, "--overwrite"]) == 0
    first = out.read_bytes()
    assert main(command) == 0
    assert out.read_bytes() == first, "the same maps give the same file"
    assert {file.name for file in tmp_path.iterdir()} == {"maps", "scene.glb"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "scene.obj"], "scene.obj is not a .glb file"),
        (["--out", "maps.glb"], "is a folder"),
        (["--out", "notes.txt/scene.glb"], "can't be written"),
        (["--camera-height", "0"], "The camera height is 0 m."),
        (["--triangles", "5"], "The number of triangles is 5."),
        (["--texture-width", "20000"], "The width of textures is 20000."),
    ],
)
def test_refused_before_any_work(distance_only, tmp_path, monkeypatch, capsys, options, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps.glb").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["mesh", str(distance_only), "--out", "scene.glb", *options]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_are_refused(tmp_path, capsys) -> None:
    out = tmp_path / "out" / "scene.glb"
    write(tmp_path / "colours", "albedo.png", np.full((16, 32, 3), 0.5), "sRGB")
    write(tmp_path / "sky", "distance.exr", np.full((16, 32, 1), np.inf))
    write(tmp_path / "zero", "distance.exr", np.zeros((16, 32, 1)))
    (tmp_path / "empty").mkdir()
    for name, words in {
        "nowhere": "There is no folder", "empty": "contains no map", "colours": "There is no distance map",
        "sky": "nothing but sky", "zero": "all zero",
    }.items():  # fmt: skip
        assert main(["mesh", str(tmp_path / name), "--out", str(out)]) == 1
        assert words in capsys.readouterr().err
    assert not out.parent.exists()


@pytest.mark.slow
def test_things_are_nodes_on_their_base(tmp_path: Path) -> None:
    """The furniture is two tables."""
    write_maps(tmp_path / "maps")
    thing = room.maps(HEIGHT).distance < room.maps(HEIGHT, furnished=False).distance
    colours = np.where(thing[..., None], PALETTE["table"], PALETTE["wall"]) / 255
    write(tmp_path / "maps", "semantic.png", colours, "sRGB")
    out = tmp_path / "room.glb"
    assert main(["mesh", str(tmp_path / "maps"), "--out", str(out), "--objects"]) == 0
    tree, _ = parsed(out)
    nodes = {node["name"]: node for node in tree["nodes"]}
    assert {"Visible", "Table", "Table 2", "Sky"} <= nodes.keys()
    meshes = {mesh["name"]: mesh["primitives"][0] for mesh in tree["meshes"]}
    lowest = []
    for name in ("Table", "Table 2"):
        assert meshes[name]["material"] == meshes["Visible"]["material"]
        box = tree["accessors"][meshes[name]["attributes"]["POSITION"]]
        # glTF's y is up: the origin is in the middle of the base.
        np.testing.assert_allclose(np.add(box["min"], box["max"])[[0, 2]], 0, atol=1e-3)
        assert box["min"][1] == pytest.approx(0, abs=1e-3)
        lowest.append(np.array(nodes[name]["matrix"]).reshape(4, 4)[3, 1])
    assert min(lowest) == pytest.approx(0, abs=0.05)
    assert max(lowest) == pytest.approx(room.BALL[2] - room.RADIUS - room.LOW[2], abs=0.2)
