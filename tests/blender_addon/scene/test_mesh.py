"""A mesh from maps, built by the operators with the real backend."""

from __future__ import annotations

import math
from pathlib import Path

import analytic_room as room
import bpy
import cycles_truth as cycles
import numpy as np
import pytest
import room_folder
from mathutils import Euler, Matrix, Vector

from panoform.backend.io.panoramas import read
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.perceive import spec as perceive_spec
from panoform.blender_addon.scene import mesh, world
from panoform.blender_addon.scene.spec import SceneSpec
from panoform.shared.imaging import sphere
from panoform.shared.jobs.scene import SceneSettings
from panoform.shared.protocol.errors import SettingError

#: Name of the pass.
DIFFUSE_COLOUR = "DiffCol" if bpy.app.version < (5, 0) else "Diffuse Color"
SCENES = Path(__file__).parents[2] / "scenes"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_folder.write(tmp_path_factory.mktemp("Zoë's maps") / "zimmer")


def build(folder: Path, **settings) -> bpy.types.Object:
    """Build a mesh from a folder and return its object."""
    given = {"kind": "MESH", "camera_height": room_folder.CAMERA_M} | settings
    assert bpy.ops.panoform.build_scene(directory=str(folder), **given) == {"FINISHED"}
    return bpy.context.view_layer.objects.active


def positions(body: bpy.types.Object, slot: int | None = None) -> np.ndarray:
    """Return the vertices in the world, (N, 3): all, or those of the faces with a material."""
    mesh = body.data
    local = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", local)
    corners, materials = np.empty(len(mesh.loops), np.int32), np.empty(len(mesh.polygons), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    mesh.polygons.foreach_get("material_index", materials)
    used = corners if slot is None else corners.reshape(-1, 3)[materials == slot].ravel()
    return local.reshape(-1, 3)[np.unique(used)] @ np.array(body.matrix_world)[:3, :3].T + body.matrix_world.translation


def seen(body: bpy.types.Object, ray: Vector | tuple[float, float, float]) -> float | None:
    """Return the distance to the mesh along a ray from the panorama's centre; None for nothing."""
    found, place, _, _ = body.ray_cast((0, 0, 0), ray)
    return Vector(place).length if found else None


def existing() -> dict[str, set]:
    kinds = ("objects", "meshes", "materials", "worlds", "images", "cameras", "collections", "node_groups")
    return {kind: set(getattr(bpy.data, kind)) for kind in kinds}


def test_build_from_a_folder(addon: Jobs, scene, folder: Path) -> None:
    body = build(folder)
    collection = bpy.data.collections["Panoform zimmer"]
    assert {thing.name for thing in collection.objects} == {"zimmer mesh", "zimmer camera"}
    assert body == collection.objects["zimmer mesh"]
    assert list(scene.collection.children) == [collection]
    names = ["zimmer mesh", "zimmer mesh lamps", "zimmer mesh hidden"]
    assert [slot.name.split(".")[0] for slot in body.data.materials][:3] == names
    assert [layer.name for layer in body.data.uv_layers] == ["UVMap"]
    assert all(polygon.use_smooth for polygon in body.data.polygons)
    reply = addon.results[0].reply
    slots = [polygon.material_index for polygon in body.data.polygons]
    counts = np.bincount(slots)
    assert [counts[0] + counts[1], *counts[2:]] == [part.triangles for part in reply.parts]
    assert all(getattr(body, f"visible_{ray}") for ray in ("camera", "shadow", "diffuse", "glossy", "transmission"))

    # Metres, the floor at z = 0.
    visible = positions(body, 0)
    low, high = (corner + np.array([0, 0, room_folder.CAMERA_M]) for corner in (room.LOW, room.HIGH))
    np.testing.assert_allclose(np.quantile(visible, 0.02, axis=0), low, atol=0.05)
    np.testing.assert_allclose(np.quantile(visible, 0.98, axis=0), high, atol=0.05)
    for x, y in ((0, 0), (0.5, 0.3), (-0.7, 0.2)):
        ray = Vector((x, y, -1)).normalized()
        assert body.matrix_world.translation.z + ray.z * seen(body, ray) == pytest.approx(0, abs=0.01)

    # The window is open.
    assert seen(body, (1, 0, 0)) is None
    assert seen(body, (-1, 0, 0)) == pytest.approx(-room.LOW[0], rel=0.01)
    assert scene.world.name == "Panoform zimmer"

    camera = scene.camera
    assert camera.name == "zimmer camera"
    assert camera.data.angle == pytest.approx(math.pi / 2)
    np.testing.assert_allclose(camera.matrix_world.translation, (0, 0, room_folder.CAMERA_M), atol=1e-6)
    turn = camera.matrix_world.to_3x3()
    np.testing.assert_allclose(turn @ Vector((0, 0, -1)), (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(turn @ Vector((0, 1, 0)), (0, 0, 1), atol=1e-6)


@pytest.mark.slow
def test_detail_and_camera_height(addon: Jobs, scene, folder: Path) -> None:
    body = build(folder, detail=5000, camera_height=2 * room_folder.CAMERA_M)
    coarse = len(body.data.polygons)
    assert positions(body, 0)[:, 2].max() == pytest.approx(2 * (room.HIGH[2] - room.LOW[2]), rel=0.02)
    scene.panoform.detail = 300_000
    assert len(build(folder).data.polygons) > 1.3 * coarse


@pytest.mark.slow
def test_nothing_of_the_user_changes(addon: Jobs, scene, folder: Path) -> None:
    mine = bpy.data.objects.new("mine", bpy.data.cameras.new("mine"))
    scene.collection.objects.link(mine)
    scene.camera, old = mine, bpy.data.worlds.new("old")
    scene.world = old
    before, settings = mine.matrix_world.copy(), dict(scene.panoform.items())
    build(folder)
    assert (scene.camera, mine.matrix_world, old.use_fake_user) == (mine, before, True)
    assert dict(scene.panoform.items()) == settings
    first = bpy.data.objects["zimmer mesh"]
    build(folder)
    assert bpy.data.objects["zimmer mesh"] == first
    assert "zimmer mesh.001" in bpy.data.objects


@pytest.mark.slow
def test_textures_are_packed_and_survive_save_and_reload(addon: Jobs, scene, folder: Path, tmp_path: Path) -> None:
    body = build(folder)
    textures = addon.results[0].reply.parts[0].textures
    assert {"albedo", "normal", "roughness", "metallic", "emission"} == textures.keys()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "room.blend"))
    triangles = len(body.data.polygons)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "room.blend"))
    assert len(bpy.data.objects["zimmer mesh"].data.polygons) == triangles
    for name, texture in textures.items():
        image = bpy.data.images[f"zimmer mesh {name}"]
        assert image.packed_file.data == texture.data.tobytes()
        assert image.colorspace_settings.name == texture.colorspace
    assert bpy.data.images["zimmer panorama"].packed_file.data == (folder / "panorama.exr").read_bytes()
    assert bpy.context.scene.world.name == "Panoform zimmer"


# Light


@pytest.mark.slow
def test_only_lamps_are_light_sources(addon: Jobs, scene, folder: Path) -> None:
    body = build(folder)
    lamps = positions(body, 1)
    rays = lamps - np.array(body.matrix_world.translation)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    assert (rays @ room_folder.LAMP > 0.9).all()
    plain = np.array([polygon.center for polygon in body.data.polygons if polygon.material_index == 0])
    plain /= np.linalg.norm(plain, axis=-1, keepdims=True)
    assert (plain @ room_folder.LAMP < 0.99).all()
    linked = [
        next(node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
        .inputs["Emission Color"]
        .is_linked
        for material in body.data.materials
    ]
    assert linked[:2] == [False, True]
    assert not any(linked[2:])


def test_light_is_found_across_the_seam() -> None:
    emission = np.zeros((8, 16, 3), np.float32)
    emission[2, 0] = 1  # u from 0 to 1/16, v from 5/8 to 6/8
    around = np.array([[-0.04, 0.6], [0.04, 0.6], [0, 0.8]])
    away = np.array([[-0.04, 0.1], [0.04, 0.1], [0, 0.3]])
    turns = np.array([[0, 0], [1, 0]])[:, None]
    uv = np.concatenate([around + turns, away + turns, around + turns + np.array([0.5, 0])]).astype(np.float32)
    assert mesh._shows_light(uv, emission).tolist() == [True, True, False, False, False, False]


def panorama_of(scene: bpy.types.Scene, pose: Matrix, path: Path, sharp: bool = False) -> dict[str, np.ndarray]:
    cycles.settings(scene, 64, 32, 16, sharp=sharp)
    cycles.camera(scene, pose, panorama=True)
    layer = scene.view_layers[0]
    layer.name = "ViewLayer"
    layer.use_pass_diffuse_color = True
    return cycles.render(scene, path)


def colour(channels: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.stack([channels[f"ViewLayer.{name}.{c}"] for c in "RGB"], axis=-1)


@pytest.mark.slow
def test_cycles_shows_albedo_inside_the_sky_and_the_room_from_outside(addon, scene, folder, tmp_path) -> None:
    body = build(folder)
    for material in body.data.materials:
        matte(material)
    inside = panorama_of(scene, body.matrix_world, tmp_path / "inside.exr")
    rays = sphere.directions(32, 64)
    solid = np.isfinite(room.cast(np.zeros(3), rays).distance)
    error = np.abs(colour(inside, DIFFUSE_COLOUR) - room_folder.albedo(rays))
    error = error[solid & (rays @ room_folder.LAMP < 0.95)]  # a lamp isn't lit: its albedo is 0
    assert np.quantile(error, 0.9) < 0.02
    light = colour(inside, "Combined")
    sky = ~solid & (np.abs(rays[..., 1]) < 0.15) & (np.abs(rays[..., 2]) < 0.1)
    np.testing.assert_allclose(light[sky], np.broadcast_to(room_folder.SKY, light[sky].shape), rtol=0.05)
    # The lamp, behind which is the ceiling.
    assert light[rays @ room_folder.LAMP > 0.99].mean() == pytest.approx(room_folder.LAMP_LIGHT, rel=0.15)

    # From behind the wall at −X, the camera sees through it the inner side of the wall at +Y.
    outside = panorama_of(scene, Matrix.Translation((-4, 0, room_folder.CAMERA_M)), tmp_path / "outside.exr")
    ray = rays[16, 28]
    place = np.array([-4, 0, 0]) + ray * room.HIGH[1] / ray[1]
    assert 0 < place[0] < room.HIGH[0]
    expected = room_folder.albedo(place / np.linalg.norm(place))
    np.testing.assert_allclose(colour(outside, DIFFUSE_COLOUR)[16, 28], expected, atol=0.05)


@pytest.mark.slow
def test_walls_block_the_light_of_a_sun(addon, scene, folder, tmp_path) -> None:
    body = build(folder)
    for material in body.data.materials:
        matte(material, emission=False)
    scene.world = None
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy = 5
    scene.collection.objects.link(sun)
    scene.cycles.max_bounces = 0
    dark = colour(panorama_of(scene, body.matrix_world, tmp_path / "above.exr"), "Combined")
    assert np.median(dark) < 1e-3
    assert (dark.max(axis=-1) > 0.05).mean() < 0.02
    # Through the window, it falls on the floor: at 45° from above.
    sun.matrix_world = Vector((1, 0, 0.5)).to_track_quat("Z", "Y").to_matrix().to_4x4()
    lit = colour(panorama_of(scene, body.matrix_world, tmp_path / "window.exr"), "Combined")
    assert 0.01 < (lit.max(axis=-1) > 0.05).mean() < 0.4


def matte(material: bpy.types.Material, emission: bool = True) -> None:
    """Leave only diffuse reflection, and emission if asked for."""
    nodes = material.node_tree.nodes
    principled = next(node for node in nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    principled.inputs["Specular IOR Level"].default_value = 0
    if not emission:
        principled.inputs["Emission Strength"].default_value = 0


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
def test_normals_are_right_under_rotation_and_scale(addon, scene, folder, tmp_path, turned: bool) -> None:
    """A lamp in the centre lights each pixel by the cosine of the normal map, over the square of the distance."""
    body = build(folder)
    for material in body.data.materials:
        matte(material, emission=False)
    if turned:
        body.matrix_world = (
            Matrix.Translation((1, 2, 3)) @ Euler((0.5, -0.3, 0.8)).to_matrix().to_4x4() @ Matrix.Scale(2, 4)
        )
    scene.world = None
    scene.cycles.max_bounces = 0
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "POINT"))
    lamp.data.energy, lamp.data.shadow_soft_size, lamp.location = 1000, 0, body.matrix_world.translation
    scene.collection.objects.link(lamp)
    rotation = body.matrix_world.to_quaternion().to_matrix().to_4x4()
    pose = Matrix.Translation(body.matrix_world.translation) @ rotation
    light = colour(panorama_of(scene, pose, tmp_path / "lamp.exr", sharp=True), "Combined")
    rays = sphere.directions(32, 64)
    hit = room.cast(np.zeros(3), rays)
    solid = np.isfinite(hit.distance)
    expected = room_folder.albedo(rays) * (-(hit.normal * rays).sum(-1) / hit.distance**2)[..., None]
    ratio = light[solid] / expected[solid]
    ratio /= np.median(ratio)
    assert np.quantile(np.abs(ratio - 1), 0.9) < 0.02


# All or nothing


@pytest.mark.slow
def test_failed_build_leaves_nothing(addon: Jobs, scene, folder: Path, monkeypatch) -> None:
    old = scene.world = bpy.data.worlds.new("old")
    before = existing()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("no world today")

        patch.setattr(world, "assign", fail)
        for kind in ("MESH", "DOME"):
            with pytest.raises(RuntimeError, match="no world today"):
                build(folder, kind=kind)
            assert existing() == before
    result = addon.results[0]
    assert not result.built
    result.reply.parts[-1].textures["albedo"].data = np.zeros(100, np.uint8)
    with pytest.raises(RuntimeError, match="is damaged"):
        bpy.ops.panoform.build_result(index=0)
    assert existing() == before
    assert (scene.world, old.use_fake_user, scene.camera) == (old, False, None)


@pytest.mark.slow
def test_bad_maps_are_reported(addon: Jobs, scene, tmp_path: Path) -> None:
    good, before = room_folder.maps(), existing()

    def refused(message: str, name: str, **changed: np.ndarray | None) -> None:
        given = {kind: values for kind, values in (good | changed).items() if values is not None}
        with pytest.raises(RuntimeError, match=message):
            build(room_folder.write(tmp_path / name, given))
        assert existing() == before
        assert not addon.results

    refused("There is no distance map", "flat", distance=None)
    refused("nothing but sky", "all sky", distance=np.full_like(good["distance"], np.inf))
    refused("not 2:1", "square", distance=good["distance"][:, :128])
    with pytest.raises(RuntimeError, match="There is no folder"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match="contains no map"):
        build(tmp_path / "empty")
    with pytest.raises(RuntimeError, match="No maps were perceived yet"):
        bpy.ops.panoform.build_scene()


@pytest.mark.slow
def test_dome_from_a_folder(addon: Jobs, scene, folder: Path) -> None:
    assert build(folder, kind="DOME").name == "zimmer dome"
    assert scene.world.name == "Panoform zimmer"
    assert not addon.results


# After Perceive


def perceive(**settings) -> None:
    given = {"source": "FILE", "filepath": str(SCENES / "room" / "panorama.exr"), "quality": "draft"}
    assert bpy.ops.panoform.perceive(**(given | {"maps": {"DISTANCE", "NORMAL", "ALBEDO"}} | settings)) == {"FINISHED"}


@pytest.mark.slow
def test_perceive_builds_a_mesh_by_default(addon: Jobs, scene) -> None:
    perceive(texture_width=1024)
    (result,) = addon.results
    assert isinstance(result.spec, SceneSpec)
    assert result.built
    assert {thing.name for thing in scene.objects} == {"panorama mesh", "panorama camera"}
    body = scene.objects["panorama mesh"]
    # Textures are as sharp as the panorama, not as the maps.
    rows = len(read(SCENES / "room" / "panorama.exr")[0])
    assert bpy.data.images["panorama mesh albedo"].size[1] == min(512, rows)
    assert scene.world.name == "Panoform panorama"

    # Rebuilt from the same maps, without inference.
    assert bpy.ops.panoform.build_scene(kind="MESH", camera_height=3.2) == {"FINISHED"}
    higher = bpy.context.view_layer.objects.active
    assert higher.matrix_world.translation.z == pytest.approx(3.2)
    assert higher.dimensions.x == pytest.approx(2 * body.dimensions.x, rel=0.01)
    assert bpy.ops.panoform.build_scene(kind="DOME") == {"FINISHED"}
    assert bpy.context.view_layer.objects.active.name == "panorama dome"


@pytest.mark.slow
def test_without_a_distance_map_or_as_a_dome(addon: Jobs, scene) -> None:
    perceive(maps={"ALBEDO"})
    perceive(kind="DOME")
    assert {thing.name for thing in scene.objects} == {"panorama dome", "panorama dome.001"}
    assert bpy.ops.panoform.build_scene(kind="MESH") == {"FINISHED"}
    assert "panorama mesh" in bpy.data.objects


@pytest.mark.slow
def test_failed_mesh_keeps_the_maps(addon: Jobs, scene, monkeypatch) -> None:
    before = existing()
    monkeypatch.setattr(
        "panoform.blender_addon.perceive.operators.scene_settings_from", lambda _get: SceneSettings(scale=-1)
    )
    with pytest.raises(RuntimeError, match="The scale is -1"):
        perceive()
    assert isinstance(addon.failure.error, SettingError)
    (result,) = addon.results
    assert isinstance(result.spec, perceive_spec.PerceiveSpec)
    assert (result.pending, result.built) == (False, False)
    assert existing() == before
    assert bpy.ops.panoform.build_scene(kind="MESH") == {"FINISHED"}
    assert "panorama mesh" in bpy.data.objects


@pytest.mark.slow
def test_invalid_pixels_are_repaired_for_the_mesh_too(addon: Jobs, scene, tmp_path: Path) -> None:
    light = room_folder.panorama(64)
    light[3, 4], light[5, 6], light[7, 8] = np.nan, np.inf, -1
    cycles.write(tmp_path / "bad.exr", light)
    perceive(filepath=str(tmp_path / "bad.exr"), repair=True)
    assert "bad mesh" in bpy.data.objects
