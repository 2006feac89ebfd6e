"""Building is all or nothing: an exception at each of the calls leaves the file as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from panoform.backend.io.encoding import encode_image
from panoform.blender_addon.capture import pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.generate import sun_lamp
from panoform.blender_addon.jobs.specs import Result
from panoform.blender_addon.scene import datablocks, environment, images, spec, world
from panoform.blender_addon.texture import build as texture
from panoform.shared.imaging import sphere
from panoform.shared.jobs.scene import Part, SceneInfo, SceneReply, SceneRequest, SceneSettings, Texture
from panoform.shared.jobs.texture import VIEWS
from panoform.shared.maps import MAPS

ERRORS = (MemoryError, TypeError, KeyboardInterrupt, RuntimeError, SystemExit)
KINDS = ("objects", "meshes", "materials", "images", "worlds", "cameras", "collections", "node_groups", "lights")


def state() -> dict[str, Any]:
    """Return what a user would miss: all datablocks with their users, and what scenes and objects refer to."""
    found: dict[str, Any] = {
        f"{kind} {block.name}": (block.users, block.use_fake_user)
        for kind in KINDS
        for block in getattr(bpy.data, kind)
    }
    for scene in bpy.data.scenes:
        found[scene.name] = (scene.world, scene.camera, dict(scene.items()).get("panoform_own_world"))
    for thing in bpy.data.objects:
        found[thing.name] = (
            thing.parent, tuple(map(tuple, thing.matrix_world)), thing.hide_viewport, thing.hide_render,
            thing.select_get(), thing.get(environment.PART), [slot.material for slot in thing.material_slots],
        )  # fmt: skip
        curves = thing.animation_data.drivers if thing.animation_data else ()
        found[f"place of {thing.name}"] = (
            tuple(thing.location), tuple(thing.rotation_euler), thing.get(world.ONLY_IN),
            [(one.driver.expression, one.driver.variables[0].targets[0].id) for one in curves],
        )  # fmt: skip
    for light in bpy.data.lights:
        found[f"light of {light.name}"] = light.energy, tuple(light.color), light.angle
    found["active"] = bpy.context.view_layer.objects.active
    return found


def call(run: Callable[[], object], at: int, error: type[BaseException]) -> bool:
    """Run it, and raise `error` at the call number `at` that the add-on makes or receives; return False before."""
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        path = frame.f_code.co_filename
        if frame.f_code.co_name == "<genexpr>":  # exceptions when it is closed would be ignored
            return
        if event in ("call", "c_call") and "blender_addon" in path and "tests" not in path:
            count += 1
            if count == at:
                sys.setprofile(None)
                raise error("injected")

    sys.setprofile(profile)
    try:
        run()
    except error:
        return False
    finally:
        sys.setprofile(None)
    return count < at


def every_call_is_undone(run: Callable[[], object], *, every: int = 1, last: int = 0) -> None:
    """Check the file after an exception at each of the calls, until the run has no more of them.

    `every`: leave out others, to save time. `last`: number of calls after the one that can't be undone.
    """
    before, at, done = state(), 1, []
    while not call(run, at, error := ERRORS[at % len(ERRORS)]):
        if state() != before:
            done.append((error, at))
            assert len(done) <= last, done
        at += every if at < 200 else 1  # all that come last
    assert at > 100
    assert state() != before


def picture(height: int = 16) -> np.ndarray:
    return np.ones((height, 2 * height, 3), np.float32)


def dome_files() -> dict[str, np.ndarray]:
    rays = sphere.directions(16, 32).astype(np.float32)
    values = {
        "distance": np.ones((16, 32, 1)),
        "normal": -rays,
        "albedo": picture() / 2,
        "roughness": picture()[..., :1],
    }
    return {
        MAPS[name].filename: encoded(MAPS[name].filename, array, MAPS[name].colorspace)
        for name, array in values.items()
    }


def encoded(filename: str, array: np.ndarray, colorspace: str) -> np.ndarray:
    return np.frombuffer(encode_image(filename, array.astype(np.float32), colorspace), np.uint8)


def mesh_reply() -> SceneReply:
    """Return a floor of 20 m under an even sky."""
    corners = np.array([(-10, -10), (10, -10), (10, 10), (-10, 10)])
    positions = np.concatenate([corners, np.full((4, 1), -1.6)], 1).astype(np.float32)
    albedo = Texture(filename="albedo.png", data=encoded("albedo.png", picture() / 2, "sRGB"), colorspace="sRGB")
    sky = Texture(filename="sky.exr", data=encoded("sky.exr", picture(), "Linear"), colorspace="Linear Rec.709")
    return SceneReply(
        id="1", positions=positions, triangles=np.array([(0, 1, 2), (0, 2, 3)], np.uint32),
        uv=np.full((2, 3, 2), 0.5, np.float32),
        parts=(Part(name="visible", triangles=2, textures={"albedo": albedo}),), environment=sky,
        info=SceneInfo(
            scale=1, has_floor=True, camera_height_m=1.6, world_from_panorama=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
            normal_confidence=None, sky=0.5, noise=0, notices=(), seconds=0,
        ),
    )  # fmt: skip


def build_mesh(scene: bpy.types.Scene) -> None:
    capture = Capture(pixels.Pixels(picture(), "linear"), "yard", Matrix.Identity(4))
    request = SceneRequest(files={}, settings=SceneSettings())
    spec.SceneSpec(name="yard", scene_uid=0, source=capture, request=request).build(mesh_reply(), scene)


@pytest.fixture
def mine(addon, scene) -> bpy.types.Scene:
    """A scene with a world and a selected cube, with a material and an image, of the user's own."""
    scene.world = bpy.data.worlds.new("mine")
    bpy.ops.mesh.primitive_cube_add()
    material = bpy.data.materials.new("paint")
    bpy.context.object.data.materials.append(material)
    material["texture"] = images.create_float("drawing", picture(), "sRGB")
    return scene


@pytest.fixture
def earlier(mine: bpy.types.Scene) -> Iterator[bpy.types.Scene]:
    """The same with an environment of the same panorama, in which the user's cube hangs."""
    cube = bpy.context.object
    mine.panoform.replace_earlier = True
    build_mesh(mine)
    cube.parent, cube.location = environment.find(bpy.context), (1, 2, 3)
    bpy.context.view_layer.update()
    yield mine
    mine.panoform.property_unset("replace_earlier")


@pytest.mark.slow
def test_dome(mine: bpy.types.Scene) -> None:
    files, capture = dome_files(), Capture(pixels.Pixels(picture(), "linear"), "yard", Matrix.Identity(4))
    every_call_is_undone(lambda: spec.dome_from_files(mine, "yard", files, capture, SceneSettings(), None), every=3)


@pytest.mark.slow
def test_mesh(mine: bpy.types.Scene) -> None:
    every_call_is_undone(lambda: build_mesh(mine), every=7)


@pytest.mark.slow
def test_mesh_in_place_of_an_earlier_one(earlier: bpy.types.Scene) -> None:
    """What the build removes goes last: until then the earlier environment is there, under its names."""
    names = {block.name for kind in KINDS for block in getattr(bpy.data, kind)}
    every_call_is_undone(lambda: build_mesh(earlier), every=3, last=3)
    assert len(environment.all_in(earlier)) == 1
    assert {block.name for kind in KINDS for block in getattr(bpy.data, kind)} == names


@pytest.mark.parametrize("kind", ["VERTEX", "VERTEX_3", "BONE"])
def test_objects_stay_attached_to_a_part_of_their_parent(mine: bpy.types.Scene, kind: str) -> None:
    child = bpy.context.object
    if kind == "BONE":
        bpy.ops.object.armature_add(location=(1, 2, 3))
    else:
        bpy.ops.mesh.primitive_cube_add(location=(1, 2, 3))
    child.parent, child.parent_type = bpy.context.object, kind
    if kind == "BONE":
        child.parent_bone = "Bone"
    else:
        child.parent_vertices = (2, 3, 4)
    bpy.context.view_layer.update()
    before = (child.parent_type, child.parent_bone, tuple(child.parent_vertices), child.matrix_world.copy())

    def build() -> None:
        with datablocks.all_or_nothing(mine):
            child.parent = None
            child.parent_type, child.parent_bone, child.parent_vertices = "OBJECT", "", (0, 0, 0)
            raise MemoryError

    with pytest.raises(MemoryError):
        build()
    bpy.context.view_layer.update()
    assert (child.parent_type, child.parent_bone, tuple(child.parent_vertices), child.matrix_world) == before


def test_unexpected_errors_are_told(addon, mine: bpy.types.Scene, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        bpy.data.materials.new("left behind")
        raise MemoryError

    monkeypatch.setattr(spec, "build_mesh", fail)
    capture = Capture(pixels.Pixels(picture(), "linear"), "yard", Matrix.Identity(4))
    made = spec.SceneSpec(
        name="yard", scene_uid=mine.session_uid, source=capture,
        request=SceneRequest(files={}, settings=SceneSettings()),
    )  # fmt: skip
    addon.results.insert(0, Result(made, mesh_reply()))
    before = state()
    with pytest.raises(RuntimeError, match="not enough main memory"):
        bpy.ops.panoform.build_result(index=0)
    assert "MemoryError" in addon.failure.details
    assert state() == before


@pytest.mark.parametrize("slots", [1, 0])
@pytest.mark.parametrize("some", [False, True], ids=["all", "faces"])
def test_texture(mine: bpy.types.Scene, slots: int, some: bool) -> None:
    """Also the slots and the UV maps of the user's mesh are as they were."""
    cube = bpy.context.object
    if not slots:
        cube.data.materials.clear()
    indices = np.array([0, 3, 0, 1, 0, 2], np.int32)  # beyond the slots, as Blender allows
    cube.data.polygons.foreach_set("material_index", indices)
    corners = np.zeros((len(cube.data.loops), 2), np.float32)
    mesh = SimpleNamespace(
        objects=[cube.session_uid], new_uv=[corners], uv_name="Panoform", pose=np.eye(4).tolist(),
        faces=[np.arange(6) < 2 if some else None], selection=["Cube"], instanced=True,
    )  # fmt: skip
    file = encoded("a.png", picture() / 2, "sRGB")
    reply = SimpleNamespace(texture=file, views=dict.fromkeys(VIEWS, file))
    layers = [layer.name for layer in cube.data.uv_layers]

    def run() -> None:
        assert [layer.name for layer in cube.data.uv_layers] == layers
        assert len(cube.material_slots) == len(cube.data.materials) == slots
        assert [face.material_index for face in cube.data.polygons] == indices.tolist()
        texture.build(mine, reply, {}, mesh, "cube")  # pyright: ignore[reportArgumentType]

    every_call_is_undone(run, every=7)


def test_sun_lamp(mine: bpy.types.Scene) -> None:
    sky = 0.2 * picture(64)
    sky[20:22, 40:43] = 5000
    mine.world = world.create("sky", images.create_float("sky", sky, "Linear Rec.709"), Matrix.Identity(4))
    every_call_is_undone(lambda: sun_lamp.split(mine), every=7)


def test_sun_lamp_that_is_updated(mine: bpy.types.Scene) -> None:
    """The lamp of an earlier split keeps its place, light and driver."""
    sky = 0.2 * picture(64)
    sky[20:22, 40:43] = 5000
    hdri = world.create("sky", images.create_float("sky", sky, "Linear Rec.709"), Matrix.Identity(4))
    mine.world = hdri
    lamp = sun_lamp.split(mine)
    assert lamp is not None
    mine.world = hdri
    world.set_rotation(hdri, Matrix.Rotation(1, 4, "Z"))
    lamp.data.energy = 3
    every_call_is_undone(lambda: sun_lamp.split(mine), every=7)
    assert lamp.data.energy > 10
