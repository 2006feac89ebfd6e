"""The user's objects in the photograph: renders by Cycles against the panorama itself."""

from __future__ import annotations

from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from mathutils import Matrix

from panoform.backend.scene.parts import encoded
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.scene import build, images
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear
from panoform.shared.jobs.scene import Part, SceneInfo, SceneReply

HEIGHT, CAMERA_M = 48, 1.6
#: Half the size of the user's cube, and its place on the floor.
HALF_M, PLACE = 0.3, (1.5, 0.0)


def floor_reply() -> SceneReply:
    """Return a floor of 20 m under an even sky."""
    corners = np.array([(-10, -10), (10, -10), (10, 10), (-10, 10)])
    positions = np.concatenate([corners, np.full((4, 1), -CAMERA_M)], 1).astype(np.float32)
    triangles = np.array([(0, 1, 2), (0, 2, 3)], np.uint32)
    uv = np.full((2, 3, 2), 0.5, np.float32)
    albedo = encoded("albedo", np.full((8, 16, 3), 0.5, np.float32))
    sky = np.zeros((HEIGHT, 2 * HEIGHT, 3), np.float32)
    sky[: HEIGHT // 2] = 1
    return SceneReply(
        id=1, positions=positions, triangles=triangles, uv=uv,
        parts=(Part(name="visible", triangles=2, textures={"albedo": albedo}),),
        environment=encoded("environment", sky),
        info=SceneInfo(
            scale=1, has_floor=True, camera_height_m=CAMERA_M, world_from_panorama=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
            normal_confidence=None, sky=0.5, noise=0, notices=(), seconds=0,
        ),
    )  # fmt: skip


@pytest.mark.slow
def test_objects_stand_in_the_photograph(addon: Jobs, scene: bpy.types.Scene, tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).uniform(0.1, 0.9, (HEIGHT, 2 * HEIGHT, 3)).astype(np.float32)
    picture = images.create_float("photograph", photograph, "Linear Rec.709")
    build.build_mesh(scene, floor_reply(), picture, "yard", Matrix.Translation((0, 0, CAMERA_M)))
    bpy.ops.mesh.primitive_cube_add(size=2 * HALF_M, location=(*PLACE, HALF_M))
    cube = bpy.context.object
    body = bpy.data.objects["yard mesh"]
    assert bpy.ops.panoform.shadow_catcher() == {"FINISHED"}
    assert body.is_shadow_catcher
    assert not cube.is_shadow_catcher

    cycles.settings(scene, 2 * HEIGHT, HEIGHT, 32, sharp=True)
    cycles.camera(scene, Matrix.Translation((0, 0, CAMERA_M)), panorama=True)
    seen = cycles.combined(cycles.render(scene, tmp_path / "seen.exr"))

    rays = sphere.directions(HEIGHT, 2 * HEIGHT)
    down = np.minimum(rays[..., 2:], -1e-6)
    place = (rays / -down * CAMERA_M)[..., :2] - PLACE
    on_floor = rays[..., 2] < -0.05
    away = ~on_floor & (rays[..., 0] < 0.5) | on_floor & (np.abs(place).max(-1) > 6 * HALF_M) & (rays[..., 0] < 0)
    error = srgb_from_linear(seen[away]) - srgb_from_linear(photograph[away])
    assert -10 * np.log10((error**2).mean()) > 35
    # On the near side of the cube, close to it.
    beside = on_floor & (np.abs(place[..., 1]) < HALF_M) & (np.abs(place[..., 0] + 1.25 * HALF_M) < 0.25 * HALF_M)
    assert beside.sum() > 3
    assert 0.3 < np.median(seen[beside] / photograph[beside]) < 0.85

    assert bpy.ops.panoform.shadow_catcher() == {"FINISHED"}
    assert not body.is_shadow_catcher


def test_needs_an_environment(addon: Jobs, scene: bpy.types.Scene) -> None:
    assert not bpy.ops.panoform.shadow_catcher.poll()
    with pytest.raises(RuntimeError):
        bpy.ops.panoform.shadow_catcher()
