"""Render scenes and their ground truth with Cycles into folders of maps.

The layout is that of evaluation/ground_truth.py, with distance in metres. Folders are written atomically, and existing
ones skipped, so an interrupted run can be resumed.
"""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio

from ...io import atomic
from ...perception.palette import PALETTE
from .build import CLASSES
from .render_io import write_image

#: Name → layer and channels in the multilayer EXR.
_PASSES = {
    "panorama": ("Combined", "RGB"),
    "distance": ("Depth", "Z"),
    "normal": ("Normal", "XYZ"),
    "label": ("IndexOB", "X"),
    "albedo": ("albedo", "RGB"),
    "pbr": ("pbr", "RGB"),
}
#: Larger distances are sky: Cycles' Z is 1e10 where a ray hits nothing.
_FAR_M = 1e6


def _settings(height: int, samples: int, camera_height_m: float) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = 2 * height, height
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.image_settings.color_depth = "32"
    scene.view_settings.view_transform = "Raw"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.use_denoising = "CPU", samples, True
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 4, 3
    cycles.sample_clamp_indirect, cycles.caustics_reflective = 8.0, False
    # With automatic resolution, the importance map of a procedural sky takes ten seconds.
    scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 128
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = layer.use_pass_object_index = True
    for name in ("albedo", "pbr"):
        aov = layer.aovs.add()
        aov.name, aov.type = name, "COLOR"
    camera = bpy.data.cameras.new("panorama")
    camera.type, camera.panorama_type = "PANO", "EQUIRECTANGULAR"
    camera.clip_start, camera.clip_end = 0.01, 1e5
    thing = bpy.data.objects.new("panorama", camera)
    thing.location = (0, 0, camera_height_m)
    # This orientation shows +X in the centre and +Y at u = 0.25 (shared/imaging/sphere.py).
    thing.rotation_euler = (np.pi / 2, 0, -np.pi / 2)
    scene.collection.objects.link(thing)
    scene.camera = thing


def _read_passes(path: Path) -> dict[str, np.ndarray]:
    """Read the passes of a multilayer EXR: name → (H, W, C) float32."""
    image = oiio.ImageInput.open(str(path))
    if image is None:
        raise RuntimeError(f"Cycles wrote no {path.name}: {oiio.geterror()}")
    names, pixels = image.spec().channelnames, image.read_image("float")
    image.close()
    if pixels is None:
        raise RuntimeError(f"{path.name} can't be read: {image.geterror()}")
    return {
        key: pixels[..., [names.index(f"ViewLayer.{layer}.{channel}") for channel in channels]]
        for key, (layer, channels) in _PASSES.items()
    }


def _save(folder: Path, passes: dict[str, np.ndarray]) -> None:
    sky = passes["distance"] > _FAR_M
    distance = np.where(sky, np.inf, passes["distance"])
    length = np.linalg.norm(passes["normal"], axis=-1, keepdims=True)
    normal = np.where(sky | (length < 1e-3), 0, passes["normal"] / np.maximum(length, 1e-3))
    albedo = np.clip(passes["albedo"], 0, 1)
    albedo = np.where(albedo <= 0.0031308, 12.92 * albedo, 1.055 * albedo ** (1 / 2.4) - 0.055)
    labels = np.rint(passes["label"][..., 0]).astype(int)
    palette = np.array([PALETTE[name] for name in CLASSES], np.float32) / 255
    write_image(folder / "panorama.exr", np.clip(passes["panorama"], 0, 60000), "half", "dwaa")
    write_image(folder / "distance.exr", distance, "half")
    # Quantised to 1/127 (a quarter of a degree), which halves the file size; DWAA would cause ringing at edges.
    write_image(folder / "normal.exr", np.rint(normal * 127) / 127, "half")
    write_image(folder / "albedo.png", albedo, "uint8")
    write_image(folder / "roughness.png", np.clip(passes["pbr"][..., :1], 0, 1), "uint8")
    write_image(folder / "metallic.png", np.clip(passes["pbr"][..., 1:2], 0, 1), "uint8")
    write_image(folder / "semantic.png", palette[labels], "uint8")


def render_scene(
    folder: Path, build: Callable[[np.random.Generator], float], seed: int, height: int, samples: int
) -> bool:
    """Build the scene of `seed`, render it, and write its folder. Return False if the folder exists already.

    `build` fills the empty file and returns the camera's height above z = 0 in metres.
    """
    target = folder / f"{seed:06d}"
    if target.exists():
        return False
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng = np.random.default_rng(seed)
    _settings(height, samples, build(rng))
    with atomic.writing(folder) as draft:
        passes = draft / "passes.exr"
        bpy.context.scene.render.filepath = str(passes)
        bpy.ops.render.render(write_still=True)
        scene = draft / target.name
        scene.mkdir()
        _save(scene, _read_passes(passes))
        passes.unlink()
    return True
