"""Things as objects of their own, built by the operators with the real backend."""

from __future__ import annotations

from pathlib import Path

import analytic_room as room
import bpy
import cycles_truth as cycles
import numpy as np
import pytest
import room_folder
from mathutils import Matrix, Vector

from panoform.backend.perception.palette import PALETTE
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import world

HEIGHT = 128
CAMERA = Vector((0, 0, room_folder.CAMERA_M))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    maps = room_folder.maps(HEIGHT) | {"semantic": room_folder.semantic(HEIGHT)}
    return room_folder.write(tmp_path_factory.mktemp("things") / "zimmer", maps)


def build(folder: Path, **settings) -> set[str]:
    given = {"kind": "OBJECTS", "camera_height": room_folder.CAMERA_M} | settings
    return bpy.ops.panoform.build_scene(directory=str(folder), **given)


def corners(body: bpy.types.Object) -> np.ndarray:
    """Return the vertices in the world, (N, 3)."""
    return np.array([body.matrix_world @ vertex.co for vertex in body.data.vertices])


def existing() -> dict[str, set]:
    kinds = ("objects", "meshes", "materials", "worlds", "images", "cameras", "collections", "node_groups")
    return {kind: set(getattr(bpy.data, kind)) for kind in kinds}


@pytest.mark.slow
def test_each_thing_is_an_object_on_its_base(addon: Jobs, scene, folder: Path) -> None:
    assert build(folder) == {"FINISHED"}
    collection = bpy.data.collections["Panoform zimmer"]
    assert {entry.name for entry in collection.objects} == {
        "zimmer camera", "zimmer mesh", "zimmer cabinet", "zimmer chair",
    }  # fmt: skip
    assert bpy.context.view_layer.objects.active == bpy.data.objects["zimmer mesh"]
    cabinet, chair = bpy.data.objects["zimmer cabinet"], bpy.data.objects["zimmer chair"]
    low, high = (corner + np.array(CAMERA) for corner in room.CUBOID)
    points = corners(cabinet)
    np.testing.assert_allclose(points.min(axis=0)[::2], low[::2], atol=0.12)
    assert points.max(axis=0)[2] == pytest.approx(high[2], abs=0.15)
    for body in (cabinet, chair):
        points = corners(body)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        np.testing.assert_allclose(body.matrix_world.translation, (*middle[:2], points[:, 2].min()), atol=1e-4)
        # Closed, with the materials of the rest.
        edges = np.sort([edge.vertices[:] for edge in body.data.edges], axis=1)
        faces = np.array([polygon.vertices[:] for polygon in body.data.polygons])
        sides = np.sort(faces[:, [(0, 1), (1, 2), (2, 0)]].reshape(-1, 2), axis=1)
        unique, counts = np.unique(sides, axis=0, return_counts=True)
        assert len(unique) == len(edges)
        assert (counts == 2).all()
        names = [material.name for material in body.data.materials]
        assert names == ["zimmer mesh", "zimmer mesh back"]
        assert all(bpy.data.materials[name].users > 1 for name in names)
    images = {node.image for node in bpy.data.materials["zimmer mesh back"].node_tree.nodes if hasattr(node, "image")}
    assert images == {bpy.data.images[f"zimmer mesh {kind}"] for kind in ("albedo", "roughness", "metallic")}


def holes(scene: bpy.types.Scene, path: Path) -> float:
    """Return the share of the panorama in which Cycles shows nothing."""
    cycles.settings(scene, 128, 64, 1, sharp=True)
    cycles.camera(scene, Matrix.Translation(CAMERA), panorama=True)
    layer = scene.view_layers[0]
    layer.name, layer.use_pass_z = "ViewLayer", True
    return float((cycles.render(scene, path)["ViewLayer.Depth.Z"] > 1e6).mean())


@pytest.mark.slow
def test_a_moved_thing_leaves_no_hole_and_shows_a_back(addon: Jobs, scene, folder: Path, tmp_path: Path) -> None:
    build(folder)
    window = np.isinf(room.maps(64).distance).mean()
    still = holes(scene, tmp_path / "still.exr")
    assert still == pytest.approx(window, abs=0.002)
    chair, cabinet = bpy.data.objects["zimmer chair"], bpy.data.objects["zimmer cabinet"]
    chair.location.x -= 0.2
    cabinet.location.y -= 0.2
    bpy.context.view_layer.update()
    assert holes(scene, tmp_path / "moved.exr") <= still
    # From outside, a ray that passes a thing meets its back first, turned towards the ray.
    for body in (chair, cabinet):
        middle = body.matrix_world.inverted() @ (body.matrix_world.translation + Vector((0, 0, body.dimensions.z / 2)))
        away = (body.matrix_world.translation - CAMERA).normalized()
        found, _, normal, _ = body.ray_cast(middle + 3 * away, -away)
        assert found
        assert normal.dot(away) > 0


@pytest.mark.slow
def test_failed_build_leaves_nothing(addon: Jobs, scene, folder: Path, monkeypatch) -> None:
    before = existing()

    def fail(*_: object) -> None:
        raise RuntimeError("no world today")

    monkeypatch.setattr(world, "assign", fail)
    with pytest.raises(RuntimeError, match="no world today"):
        build(folder)
    assert existing() == before


@pytest.mark.slow
def test_semantic_map_is_required(addon: Jobs, scene, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no semantic map"):
        build(room_folder.write(tmp_path / "plain"))
    with pytest.raises(RuntimeError, match="Perceive Semantic too"):
        bpy.ops.panoform.perceive(source="FILE", filepath="none.exr", kind="OBJECTS", maps={"DISTANCE"})
    assert not scene.objects


@pytest.mark.slow
def test_without_things_it_is_the_plain_mesh(addon: Jobs, scene, tmp_path: Path) -> None:
    walls = np.full((HEIGHT, 2 * HEIGHT, 3), np.array(PALETTE["wall"]) / 255, np.float32)
    build(room_folder.write(tmp_path / "bare", room_folder.maps(HEIGHT) | {"semantic": walls}))
    assert {entry.name for entry in scene.objects} == {"bare camera", "bare mesh"}
    (result,) = addon.results
    assert "shows no things" in result.spec.notice(result.reply)
