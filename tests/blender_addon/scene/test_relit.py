"""Rebuilt scenes under their own light, against the panoramas that they were perceived from."""

from __future__ import annotations

from pathlib import Path

import bpy
import cycles_truth
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.io.panoramas import read, resize
from panoform.backend.lighting import exposure
from panoform.blender_addon.capture import sources
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.imaging.colour import srgb_from_linear

SCENES = Path(__file__).parents[2] / "scenes"
HEIGHT = 64


def render(camera: bpy.types.Object, path: Path) -> np.ndarray:
    """Render the scene from a camera as a panorama, (HEIGHT, 2·HEIGHT, 3) linear."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 16, True
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 2 * HEIGHT, HEIGHT, 100
    scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
    camera.data.type, camera.data.panorama_type = "PANO", "EQUIRECTANGULAR"
    scene.camera, scene.render.filepath = camera, str(path)
    cycles_truth.small_importance_map(scene)
    bpy.ops.render.render(write_still=True)
    return np.asarray(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT))[..., :3]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decibels"), [("room", 23), ("second-hall", 20), ("street", 20)])
def test_rebuilt_scene_is_lit_as_the_panorama_shows_it(
    addon: Jobs, scene, tmp_path: Path, name: str, decibels: float
) -> None:
    bpy.ops.panoform.build_scene(directory=str(SCENES / name), kind="MESH", camera_height=1.6)
    camera = bpy.data.objects[f"{name} camera"]
    found = render(camera, tmp_path / "relit.exr")
    truth = resize(read(SCENES / name / "panorama.exr")[0], HEIGHT)
    _, record = exposure.expose(truth, "linear")
    assert record is not None
    scale = float(record["exposure"])
    error = srgb_from_linear((found * scale).clip(0, 1)) - srgb_from_linear((truth * scale).clip(0, 1))
    psnr = -10 * np.log10((error**2).mean())
    assert psnr > decibels


@pytest.mark.slow
def test_world_of_a_mesh_is_read_like_any_other(addon: Jobs, scene) -> None:
    bpy.ops.panoform.build_scene(directory=str(SCENES / "room"), kind="MESH", camera_height=1.6)
    image, rotation = sources.world_image(scene)
    assert image.name == "room panorama"
    assert rotation.is_identity
    scene.world.node_tree.nodes[f"{sources.LIGHT} Strength"].outputs["Value"].default_value = 3
    assert sources.world_strength(scene) == 3
