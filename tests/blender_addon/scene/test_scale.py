"""The size of environments: of a render of the user's own scene, and by a length that the user measures."""

from __future__ import annotations

from pathlib import Path

import analytic_room as room
import bpy
import numpy as np
import pytest
import room_folder
from mathutils import Matrix, Vector

from panoform.blender_addon.capture import distances, sources
from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.render import PanoramaRender
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import environment, measure
from panoform.blender_addon.scene.spec import SceneSpec, from_folder
from panoform.blender_addon.ui.operator_parts import run_job
from panoform.shared.jobs.scene import SceneRequest, SceneSettings

#: The camera in the user's scene, whose room stands anywhere.
PLACE = Matrix.Translation((3, -2, 5)) @ Matrix.Rotation(0.7, 4, "Z")


class Operator:
    """Takes an operator's report."""

    def report(self, _kind: set[str], text: str) -> None:
        self.text = text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return room_folder.write(tmp_path / "room", room_folder.maps(64))


def add_room(scene: bpy.types.Scene) -> None:
    """Add the box of the analytic room, without window and furniture, around PLACE."""
    x, y, z = zip(room.LOW, room.HIGH, strict=True)
    corners = [(x[i], y[j], z[k]) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    mesh = bpy.data.meshes.new("walls")
    mesh.from_pydata(corners, [], [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)])
    walls = bpy.data.objects.new("walls", mesh)
    walls.matrix_world = PLACE
    scene.collection.objects.link(walls)


def points(body: bpy.types.Object) -> np.ndarray:
    """Return the vertices of what the panorama shows, in the world, (N, 3)."""
    mesh = body.data
    local = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", local)
    used = sorted({index for face in mesh.polygons if face.material_index == 0 for index in face.vertices})
    pose = np.array(body.matrix_world)
    return local.reshape(-1, 3)[used] @ pose[:3, :3].T + pose[:3, 3]


def spec_of_own_scene(scene: bpy.types.Scene, folder: Path, known: np.ndarray | None) -> SceneSpec:
    """Return the job on exact maps, in another unit, of a render at PLACE."""
    exact = room.maps(64, furnished=False, window=False)
    given = room_folder.maps(64) | {"distance": (exact.distance[..., None] / 0.37).astype(np.float32)}
    files = from_folder(room_folder.write(folder, given | {"normal": exact.normal}), 0, SceneSettings()).request.files
    light = np.full((64, 128, 3), 0.5, np.float32)
    light[3, 5] = np.nan  # repaired
    source = Capture(Pixels(light, "linear"), "own", PLACE, has_position=True, known_distances=known)
    settings = SceneSettings(camera_height_m=9.0, align_walls=True)
    return SceneSpec(
        source=source, name="own", scene_uid=scene.session_uid, request=SceneRequest(files=files, settings=settings)
    )


def test_a_mesh_is_built_with_its_panorama(scene, tmp_path: Path) -> None:
    request = spec_of_own_scene(scene, tmp_path / "maps", None).request
    assert request.panorama is not None
    assert np.nanmin(request.panorama) == np.nanmax(request.panorama) == 0.5
    assert not request.settings.align_walls


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MESH", "DOME"])
def test_mesh_of_a_render_lies_on_the_users_own_scene(addon: Jobs, scene, tmp_path: Path, kind: str) -> None:
    add_room(scene)
    spec = spec_of_own_scene(scene, tmp_path / "maps", distances.measure(scene, PLACE))
    if kind == "MESH":
        run_job(Operator(), spec)  # pyright: ignore[reportArgumentType]
    else:
        spec.build_dome(scene)
    body = bpy.context.view_layer.objects.active
    if kind == "DOME":
        body = body.evaluated_get(bpy.context.evaluated_depsgraph_get())
    local = (points(body) - PLACE.translation) @ np.array(PLACE.to_3x3())
    off = np.minimum(np.abs(local - room.LOW), np.abs(local - room.HIGH)).min(axis=1)
    # A pixel is 2.8° wide: a few vertices in the room's corners are off by more than 1 %.
    assert np.quantile(off / np.linalg.norm(local, axis=1), 0.9 if kind == "DOME" else 0.99) < 0.01
    size = local.max(axis=0) - local.min(axis=0)
    np.testing.assert_allclose(size, room.HIGH - room.LOW, rtol=0.01 if kind == "MESH" else 0.03)


def test_render_knows_the_true_distances(scene) -> None:
    add_room(scene)
    rendering = PanoramaRender(scene, PLACE, width=16, samples=1)
    try:
        known = rendering._read(
            Pixels(np.ones((8, 16, 3), np.float32), "linear"), np.ones((8, 16), np.float32)
        ).known_distances
    finally:
        rendering.close()
    assert known is not None
    assert len(known) > 500
    truth = room.cast(np.zeros(3), known[:, :3], furnished=False, window=False).distance
    np.testing.assert_allclose(known[:, 3], truth, rtol=1e-4)
    image = bpy.data.images.new("render", 16, 8, float_buffer=True)
    sources.store_pose(image, PLACE, known)
    np.testing.assert_array_equal(sources.from_image(image).known_distances, known)


def build(folder: Path, **settings) -> bpy.types.Object:
    given = {"kind": "MESH"} | settings
    assert bpy.ops.panoform.build_scene(directory=str(folder), **given) == {"FINISHED"}
    return bpy.context.view_layer.objects.active


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MESH", "DOME"])
def test_measured_length_scales_everything_about_the_floor(addon: Jobs, scene, folder: Path, kind: str) -> None:
    mine = bpy.data.objects.new("mine", None)
    mine.location = (1, 1, 1)
    scene.collection.objects.link(mine)
    body = build(folder, kind=kind)
    world, before = scene.world, scene.camera and scene.camera.matrix_world.copy()
    turn = world.node_tree.nodes["Rotation"].inputs["Rotation"].default_value[:]

    def below() -> Vector:
        bpy.context.view_layer.update()
        centre = body.matrix_world.translation
        ray = Vector((0.1, 0.05, -1))
        hit = measure.cast(bpy.context, body, centre, ray.normalized())
        assert hit is not None
        return hit

    def across() -> float:
        bpy.context.view_layer.update()
        left, right = (
            measure.cast(bpy.context, body, body.matrix_world.translation, Vector((0, y, 0))) for y in (1, -1)
        )
        return (left - right).length

    measured = across()
    assert measured == pytest.approx(4.0, rel=0.03)
    assert bpy.ops.panoform.set_scale(measured=measured, length=2 * measured) == {"FINISHED"}
    assert across() == pytest.approx(2 * measured, rel=1e-4)
    assert below().z == pytest.approx(0, abs=0.05)
    np.testing.assert_allclose(body.matrix_world.translation, (0, 0, 3.2), rtol=0.02)
    assert (scene.world, mine.location[:]) == (world, (1, 1, 1))
    assert world.node_tree.nodes["Rotation"].inputs["Rotation"].default_value[:] == turn
    if kind == "MESH":
        np.testing.assert_allclose(scene.camera.matrix_world.translation, body.matrix_world.translation, atol=1e-5)
        np.testing.assert_allclose(scene.camera.matrix_world.to_3x3(), before.to_3x3(), atol=1e-6)

    # Built again from the same maps, also by the other kind, it has that scale.
    addon.results.clear()
    for again in (kind, "MESH" if kind == "DOME" else "DOME"):
        body = build(folder, kind=again, **({"detail": 50_000} if again == "MESH" else {}))
        assert across() == pytest.approx(2 * measured, rel=0.03)
        assert below().z == pytest.approx(0, abs=0.05)
    # Unless something else is asked for.
    body = build(folder, camera_height=1.6)
    assert across() == pytest.approx(measured, rel=0.03)
    body = build(folder, scale=3.0)
    assert across() == pytest.approx(12.0, rel=0.03)


@pytest.mark.slow
def test_scale_is_kept_with_the_file(addon: Jobs, scene, folder: Path, tmp_path: Path) -> None:
    body = build(folder)
    body.matrix_world = Matrix.Translation((5, 0, 2)) @ body.matrix_world  # moved by the user
    bpy.ops.panoform.set_scale(measured=1.0, length=1.5)
    np.testing.assert_allclose(body.matrix_world.translation, (5, 0, 2 + 2.4), rtol=0.01)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "room.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "room.blend"))
    again = build(folder)
    np.testing.assert_allclose(again.matrix_world.translation, (0, 0, 2.4), rtol=0.01)


@pytest.mark.slow
def test_lengths_that_give_no_scale(addon: Jobs, scene, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="No environment was built"):
        bpy.ops.panoform.set_scale(measured=1.0, length=2.0)
    body = build(folder)
    pose = body.matrix_world.copy()
    with pytest.raises(RuntimeError, match="A length of 0 gives no scale"):
        bpy.ops.panoform.set_scale(measured=0.0, length=2.0)
    for measured, length in ((1e-30, 1.0), (1e-30, 1e30), (1.0, 1e7), (1e9, 1.0)):
        with pytest.raises(RuntimeError, match="The scale is"):
            bpy.ops.panoform.set_scale(measured=measured, length=length)
    assert body.matrix_world == pose
    assert environment.parts(body)[0] == body


def test_one_undo_step_for_a_length() -> None:
    """The clicks change nothing: only the operator that they call at last makes a step."""
    assert "UNDO" in measure.PANOFORM_OT_set_scale.bl_options
    assert "UNDO" not in getattr(measure.PANOFORM_OT_measure_length, "bl_options", set())
