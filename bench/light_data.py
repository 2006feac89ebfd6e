"""Data for hdr.py: maps that the starter perceives of clipped pictures, and rendered scenes with their light.

Both are made once, and kept in a folder. A scene's Sun lamps, which a camera doesn't see, are painted into its panorama
where nothing hides them, so that the panorama holds all light.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
import scene_truth
from mathutils import Vector

from panoform.backend.lighting import solve
from panoform.backend.lighting.maps import light_maps
from panoform.backend.models.cache import ModelCache
from panoform.backend.training.scenes.build import Builder
from panoform.shared.engines import EngineSettings
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sphere import directions, solid_angles
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings

#: Height of rendered scenes, and of the pictures' maps, in pixels; Cycles' samples.
HEIGHT, MAP_HEIGHT, SAMPLES = 256, 128, 32


class Maps(NamedTuple):
    """What a picture's maps tell, all (H, W, …): linear albedo, distances along the rays (inf: sky), unit normals."""

    albedo: np.ndarray
    distance: np.ndarray
    normal: np.ndarray


class Silent:
    """A ProgressReporter that reports nothing."""

    def progress(self, *_: object) -> None: ...

    def preview(self, *_: object) -> None: ...

    def check_cancelled(self) -> None: ...


def with_sky(maps: Maps) -> solve.Maps:
    """Return the maps as the solver takes them: infinite where estimated distances mean sky."""
    return light_maps(
        {"distance": maps.distance[..., None], "normal": maps.normal, "albedo": srgb_from_linear(maps.albedo)}
    ) or solve.Maps(*maps)


_models = ModelCache()


def perceived(picture: np.ndarray, cache: Path, name: str, height: int = MAP_HEIGHT) -> Maps:
    """Return the starter's maps of an sRGB picture (H, W, 3), from `cache`/`name` or made and kept there."""
    path = cache / "maps" / f"{name}-{height}.npz"
    if not path.exists():
        from panoform.backend.perception.job import perceive

        request = PerceiveRequest(
            panorama=picture, encoding="srgb", engine=EngineSettings(engine="starter", device="cpu"),
            settings=PerceiveSettings(maps=("distance", "normal", "albedo"), height=height),
        )  # fmt: skip
        maps = perceive(request, _models, Silent()).maps
        _save(path, albedo=linear_from_srgb(maps["albedo"]), distance=maps["distance"][..., 0], normal=maps["normal"])
    with np.load(path) as file:
        return Maps(file["albedo"], file["distance"], file["normal"])


def scene(cache: Path, index: int) -> tuple[str, np.ndarray, Maps]:
    """Return name, light (H, W, 3) and exact maps of scene `index` of scene_truth.SCENES; rendered once."""
    name = f"{index:02d}-{scene_truth.SCENES[index][0].__name__}"
    path = cache / "scenes" / f"{name}.npz"
    if not path.exists():
        _save(path, **render(index))
    with np.load(path) as file:
        return name, file["light"], Maps(file["albedo"], file["distance"], file["normal"])


def render(index: int, height: int = HEIGHT) -> dict[str, np.ndarray]:
    """Render light and exact maps of scene `index`, which is the open file then."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    maker, seed = scene_truth.SCENES[index]
    height_m = maker(Builder(np.random.default_rng(seed)))
    scene_truth.prepare()
    scene = bpy.context.scene
    for thing in scene.objects:
        thing.location.z -= height_m
    scene.camera.location = (0, 0, 0)
    scene.camera.data.type, scene.camera.rotation_euler = "PANO", (np.pi / 2, 0, -np.pi / 2)
    layer, cycles = scene.view_layers[0], scene.cycles
    layer.use_pass_normal = True
    passes = scene_truth.render(2 * height, height)
    distance = scene_truth.finite_distance(passes["Depth"])[..., 0]
    length = np.linalg.norm(passes["Normal"], axis=-1, keepdims=True)
    normal = np.where(length > 1e-3, passes["Normal"] / np.maximum(length, 1e-3), 0)
    albedo = np.clip(passes["albedo"], 0, 1)
    cycles.samples, cycles.max_bounces, cycles.use_denoising = SAMPLES, 6, True
    cycles.diffuse_bounces, cycles.sample_clamp_indirect = 6, 8.0
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 512
    light = scene_truth.render(2 * height, height)["Combined"].astype(np.float64)
    rays, solid = directions(HEIGHT, 2 * HEIGHT), solid_angles(HEIGHT, 2 * HEIGHT)
    for thing in scene.objects:
        if thing.type == "LIGHT":
            towards = np.array(thing.matrix_world.to_3x3() @ Vector((0, 0, 1)))
            row, column = np.unravel_index((rays @ towards).argmax(), distance.shape)
            if not np.isfinite(distance[row, column]):
                light[row, column] += np.array(thing.data.color) * thing.data.energy / solid[row, 0]
    return {"light": np.clip(light, 0, 1e6), "distance": distance, "normal": normal, "albedo": albedo}


def _save(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    with draft.open("wb") as file:
        np.savez_compressed(file, **{name: array.astype(np.float32) for name, array in arrays.items()})
    draft.replace(path)
