"""Rebuilt scenes under their own light, against the panoramas that they were perceived from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import bpy
import cycles_truth
import numpy as np
import OpenImageIO as oiio
import pytest
from scipy import ndimage

from panoform.backend.io.encoding import encode_image
from panoform.backend.io.panoramas import read, resize
from panoform.backend.lighting import exposure
from panoform.blender_addon.capture import sources
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear

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


def own_light_psnr(name: str, directory: Path, path: Path, **options) -> float:
    """Build a folder of maps; return the PSNR in dB of the scene under its own light, against the panorama."""
    bpy.ops.panoform.build_scene(directory=str(directory), kind="MESH", camera_height=1.6, **options)
    found = render(bpy.data.objects[f"{directory.name} camera"], path)
    truth = resize(read(SCENES / name / "panorama.exr")[0], HEIGHT)
    _, record = exposure.expose(truth, "linear")
    assert record is not None
    scale = float(record["exposure"])
    error = srgb_from_linear((found * scale).clip(0, 1)) - srgb_from_linear((truth * scale).clip(0, 1))
    return float(-10 * np.log10((error**2).mean()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decibels"), [("room", 23), ("second-hall", 20), ("street", 20)])
def test_rebuilt_scene_is_lit_as_the_panorama_shows_it(
    addon: Jobs, scene, tmp_path: Path, name: str, decibels: float
) -> None:
    assert own_light_psnr(name, SCENES / name, tmp_path / "relit.exr") > decibels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["room", "second-hall"])
def test_an_albedo_of_a_model_is_matched_to_the_panorama(addon: Jobs, scene, tmp_path: Path, name: str) -> None:
    """The albedo is blurred, dim and blue, as a model's may be: matched, the scene looks like the panorama."""
    maps = {path.stem: path for path in (SCENES / name).iterdir()}
    true = linear_from_srgb(read(maps["albedo"])[0])
    wrong = ndimage.uniform_filter(true, (9, 9, 1)) * (0.35, 0.5, 0.65)
    files = {path.name: path.read_bytes() for path in maps.values()}
    files["albedo.png"] = encode_image("albedo.png", srgb_from_linear(wrong).astype(np.float32), "sRGB")
    record = {
        "panoform": "1", "frame": "", "maps": {"albedo": ""},
        "files": {"albedo.png": hashlib.sha256(files["albedo.png"]).hexdigest()},
    }  # fmt: skip
    directory = tmp_path / "perceived"
    directory.mkdir()
    for filename, data in files.items():
        (directory / filename).write_bytes(data)
    own = own_light_psnr(name, directory, tmp_path / "own.exr")
    bpy.ops.panoform.remove_environment()
    (directory / "maps.json").write_text(json.dumps(record))
    matched = own_light_psnr(name, directory, tmp_path / "matched.exr")
    assert matched > max(own + 4, 21)


@pytest.mark.slow
def test_world_of_a_mesh_is_read_like_any_other(addon: Jobs, scene) -> None:
    bpy.ops.panoform.build_scene(directory=str(SCENES / "room"), kind="MESH", camera_height=1.6)
    image, rotation = sources.world_image(scene)
    assert image.name == "room panorama"
    assert rotation.is_identity
    scene.world.node_tree.nodes[f"{sources.LIGHT} Strength"].outputs["Value"].default_value = 3
    assert sources.world_strength(scene) == 3
