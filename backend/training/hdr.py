"""Fits the regressor of `backend.hdr` on our own rendered panoramas: one command, about half an hour on one core.

    python -m panoform.backend.training render --split train …          (see __main__.py; once)
    python -m panoform.backend.training.hdr --data DATA [--out FILE]

1. Cycles' camera sees no Sun lamp, and catches the disc of a physical sky by chance. So each scene is built again from
   its seed, without rendering, and its sun is put into the panorama, with a random share of glare and haze around it.
2. Each panorama is used as it is and with darker surfaces, so that the ground's mean luminance is 1 / 9 (log-normally
   spread) of the irradiance / π on it: our materials are brighter than asphalt, grass and floors.
3. It is exposed so that 0.5 to 40 % of it clips, or so that its median is 0.35, and clipped to 8 bits.
4. A network of one hidden layer predicts the log radiance of each clipped region's glow and the log irradiance of its
   disc from `clipped.FEATURES`. The loss is what counts in the end: the relative error e of the irradiance on 256
   directions, as log(1 + e / 0.15), so that hopeless panoramas do not rule. Three such networks lie side by side.

The file in the tree was fitted on 2213 clipped panoramas of the first 380 training scenes. The HDRIs inside bpy are for
measuring (bench/hdr.py), never for fitting.
"""

# bpy and mathutils come without declarations; OpenImageIO's say that pixels may be None.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportOptionalSubscript=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
import OpenImageIO as oiio
import torch
from mathutils import Vector
from platformdirs import user_cache_path
from safetensors.numpy import save_file

from ...shared.sphere import directions, solid_angles
from .. import clipped, hdr
from ..exposure import linear_from_srgb, srgb_from_linear
from . import scenes

NETWORKS, HIDDEN, EPOCHS, BATCH = 3, 16, 12, 64
#: Clipped panoramas of each scene as it is, and as many with darker surfaces.
EXPOSURES = 3
#: Most regions of a panorama that are fitted, the largest ones.
REGIONS = 24
#: Irradiance on the ground / π / its geometric mean luminance with darker surfaces, and its log standard deviation.
METER, SPREAD = 9.0, 0.45
#: Half the error that counts most.
ERROR = 0.15
#: The irradiance is summed over cells of this many rows.
CELLS = 64


class Lamp(NamedTuple):
    """A scene's sun. Its irradiance (3,) is on a surface that faces it."""

    direction: np.ndarray
    irradiance: np.ndarray
    visible: bool
    #: Whether the panorama shows its sky with a disc, or nothing of it.
    physical: bool


class Case(NamedTuple):
    """A clipped panorama: irradiances on 256 directions of what it shows, of what it was, of each region's even glow of
    radiance 1 and of its disc of irradiance 1; and the regions' features."""

    shown: np.ndarray  # (256,)
    true: np.ndarray  # (256,)
    kernels: np.ndarray  # (2, R, 256)
    features: np.ndarray  # (R, F)


def sphere(count: int = 256) -> np.ndarray:
    """Evenly spread unit vectors, (count, 3): a Fibonacci sphere."""
    index = np.arange(count) + 0.5
    z, lon = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    return np.stack([np.sqrt(1 - z**2) * np.cos(lon), np.sqrt(1 - z**2) * np.sin(lon), z], axis=-1)


_COSINE = np.maximum(sphere() @ directions(CELLS, 2 * CELLS).reshape(-1, 3).T.astype(np.float64), 0)


def sun_of(seed: int, distance: np.ndarray) -> tuple[list[Lamp], float] | None:
    """(the scene's suns, the camera's height), or None where today's generator makes another scene of the seed."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    height_m = scenes.build(np.random.default_rng(seed))
    scene = bpy.context.scene
    depsgraph, eye = bpy.context.evaluated_depsgraph_get(), Vector((0, 0, height_m))

    def reach_m(ray: np.ndarray) -> float:
        hit, place, *_ = scene.ray_cast(depsgraph, eye, Vector(ray.tolist()))
        return (place - eye).length if hit else np.inf

    rays, rng = directions(*distance.shape), np.random.default_rng(1)
    same = 0
    for _ in range(40):
        pixel = rng.integers(20, distance.shape[0] - 20), rng.integers(distance.shape[1])
        found, stored = reach_m(rays[pixel]), distance[pixel]
        same += found == stored or abs(found - stored) < 0.03 * found + 0.02
    if same < 36:
        return None
    lamps = []
    for thing in scene.objects:
        if thing.type == "LIGHT":
            direction = np.array(thing.rotation_euler.to_matrix() @ Vector((0, 0, 1)))
            irradiance = thing.data.energy * np.array(thing.data.color)
            lamps.append(Lamp(direction, irradiance, np.isinf(reach_m(direction)), False))
    for node in scene.world.node_tree.nodes:
        if node.type == "TEX_SKY":
            up, turn = node.sun_elevation, node.sun_rotation
            direction = np.array([np.sin(turn) * np.cos(up), np.cos(turn) * np.cos(up), np.sin(up)])
            visible = np.isinf(reach_m(direction))
            lamps.append(Lamp(direction, _disc_of_sky(direction), visible, True))
    return lamps, height_m


def _disc_of_sky(direction: np.ndarray) -> np.ndarray:
    """(3,) irradiance of the open scene's physical sun: what a camera 1° wide sees above the sky around it."""
    scene = bpy.context.scene
    for thing in list(scene.objects):
        bpy.data.objects.remove(thing)
    camera = bpy.data.cameras.new("sun")
    camera.angle = np.radians(1)
    scene.camera = bpy.data.objects.new("sun", camera)
    scene.camera.rotation_euler = Vector(direction).to_track_quat("-Z", "Y").to_euler()
    scene.collection.objects.link(scene.camera)
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 4, False
    scene.render.resolution_x = scene.render.resolution_y = 16
    scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
    scene.cycles.filter_width = 0.01
    scene.world.cycles.sampling_method = "NONE"
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "sun.exr")
        bpy.ops.render.render(write_still=True)
        seen = oiio.ImageBuf(scene.render.filepath).get_pixels(oiio.FLOAT)[..., :3]
    around = np.median(np.concatenate([seen[0], seen[-1]]), axis=0)
    return np.maximum(seen - around, 0).mean((0, 1)) * np.radians(1) ** 2


def put_in(light: np.ndarray, sky: np.ndarray, lamp: Lamp, rng: np.random.Generator) -> np.ndarray:
    """The panorama with its sun, and with some of the sun's light spread over the sky (H, W) as glare and haze."""
    rays, weight = directions(*sky.shape).astype(np.float64), _weight(sky)
    cosine = rays @ lamp.direction
    angle = np.arccos(np.clip(cosine, -1, 1))
    light = light.copy()
    if lamp.direction[2] < 0:
        return light
    if lamp.physical:  # the camera's noisy disc goes
        near, around = sky & (angle < np.radians(3)), sky & (angle >= np.radians(3)) & (angle < np.radians(6))
        if near.any() and around.any():
            light[near] = np.minimum(light[near], 1.5 * np.median(light[around], axis=0))
    spread = rng.uniform(0, 0.25) if lamp.physical else rng.uniform(0.03, 0.5)
    if lamp.visible:
        pixel = np.unravel_index(cosine.argmax(), cosine.shape)
        light[pixel] += (1 - spread) * lamp.irradiance / weight[pixel]
    share = rng.uniform(0.2, 0.8)
    for part, low, high in ((share, 1.5, 6), (1 - share, 6, 25)):
        lobe = np.exp(-angle / np.radians(np.exp(rng.uniform(np.log(low), np.log(high)))))
        light[sky] += (part * spread * lobe / (lobe * weight).sum())[sky][:, None] * lamp.irradiance
    return light


def darken(light: np.ndarray, distance: np.ndarray, height_m: float, rng: np.random.Generator) -> np.ndarray:
    """The panorama with a ground that sends back as little as real ones do, and with darker things on it."""
    rays, weight = directions(*distance.shape).astype(np.float64), _weight(distance)
    solid = np.isfinite(distance)
    ground = (rays[..., 2] < -0.05) & (height_m + np.where(solid, distance, 1e9) * rays[..., 2] < 0.35)
    luminance = light @ clipped.LUMINANCE
    irradiance = (luminance * weight * np.maximum(rays[..., 2], 0)).sum() / np.pi
    below = rays[..., 2] < clipped.GROUND_Z
    mean = np.exp(np.average(np.log(np.maximum(luminance[below], 1e-5)), weights=weight[below]))
    factor = np.clip(irradiance / mean / np.exp(rng.normal(np.log(METER), SPREAD)), 0.1, 1.5)
    light = light.copy()
    light[solid & ~ground & (luminance < 3 * np.quantile(luminance, 0.9))] *= factor ** rng.uniform(0, 0.8)
    light[ground] *= factor
    return light


def case_of(light: np.ndarray, rng: np.random.Generator) -> Case | None:
    """The panorama exposed at random and clipped; None where nothing or nearly everything clips."""
    if rng.uniform() < 0.2:
        scale = 0.35 / np.median(light @ clipped.LUMINANCE)
    else:
        scale = 1 / np.quantile(light.max(-1), 1 - np.exp(rng.uniform(np.log(0.005), np.log(0.4))))
    light = light * scale
    picture = (np.round(srgb_from_linear(np.clip(light, 0, 1)) * 255) / 255).astype(np.float32)
    mask = (picture >= np.float32(hdr.THRESHOLD)).all(-1)
    weight = _weight(mask)
    true = _irradiance(light @ clipped.LUMINANCE * weight)
    if not 0 < mask.mean() < 0.8 or true.min() <= 1e-6:
        return None
    linear = linear_from_srgb(picture.astype(np.float64))
    lights = clipped.find(linear, mask)
    kept = np.argsort(-lights.size)[:REGIONS]
    deep = np.bincount(lights.region, lights.depth_rad * lights.solid) / lights.size
    shapes = lights.depth_rad / deep[lights.region], hdr._discs(lights, np.ones(len(lights.size)))
    kernels = np.zeros((2, len(kept), len(true)))
    for shape, kernel in zip(shapes, kernels, strict=True):
        for row, region in enumerate(kept):
            energy = np.zeros(mask.shape)
            energy[mask] = np.where(lights.region == region, shape * lights.solid, 0)
            kernel[row] = _irradiance(energy)
    return Case(_irradiance(linear @ clipped.LUMINANCE * weight), true, kernels, lights.features[kept])


def _weight(like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(solid_angles(*like.shape), like.shape).astype(np.float64)


def _irradiance(energy: np.ndarray) -> np.ndarray:
    """(256,) on the directions of `sphere`, from luminance × solid angle (H, W)."""
    height, width = energy.shape
    cells = energy.reshape(CELLS, height // CELLS, 2 * CELLS, width // (2 * CELLS)).sum((1, 3))
    return _COSINE @ cells.ravel()


def cases_of(folder: Path, count: int) -> list[Case]:
    rng = np.random.default_rng(0)
    cases: list[Case] = []
    for index, path in enumerate(sorted(folder.iterdir())[:count]):
        read = (oiio.ImageBuf(str(path / f"{name}.exr")).get_pixels(oiio.FLOAT) for name in ("panorama", "distance"))
        light, distance = (np.maximum(pixels, 0).astype(np.float64) for pixels in read)
        light, distance = light[..., :3], distance[..., 0]
        found = sun_of(int(path.name), distance)
        if found is None:
            continue
        lamps, height_m = found
        for darker in (True, False):
            lit = light
            for lamp in lamps:
                lit = put_in(lit, ~np.isfinite(distance), lamp, rng)
            if darker:
                lit = darken(lit, distance, height_m, rng)
            cases += [case for _ in range(EXPOSURES) if (case := case_of(lit, rng)) is not None]
        print(f"{index + 1} scenes, {len(cases)} clipped panoramas", flush=True)
    return cases


def _batch(cases: list[Case]) -> dict[str, torch.Tensor]:
    rows = max(len(case.features) for case in cases)

    def padded(array: np.ndarray, axis: int) -> np.ndarray:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, rows - array.shape[axis])
        return np.pad(array, widths)

    parts = {
        "shown": [case.shown for case in cases],
        "true": [case.true for case in cases],
        "kernels": [padded(case.kernels, 1) for case in cases],
        "features": [padded(case.features, 0) for case in cases],
        "there": [padded(np.ones(len(case.features)), 0) for case in cases],
    }
    return {name: torch.from_numpy(np.stack(arrays).astype(np.float32)) for name, arrays in parts.items()}


def fit(cases: list[Case], seed: int, epochs: int = EPOCHS) -> dict[str, torch.Tensor]:
    """One network: the tensors of hdr.safetensors."""
    torch.manual_seed(seed)
    data = _batch(cases)
    features = data["features"][data["there"] > 0]
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    hidden, out = torch.nn.Linear(features.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, 2)
    torch.nn.init.zeros_(out.weight)
    out.bias.data = torch.tensor([0.0, -3.0])
    weights = [*hidden.parameters(), *out.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1e-3)
    steps = max(len(cases) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * steps + 1)
    for _ in range(epochs):
        order = torch.randperm(len(cases))
        for step in range(steps):
            some = {name: tensor[order[step * BATCH : (step + 1) * BATCH]] for name, tensor in data.items()}
            seen = (some["features"] - mean) / deviation + 0.15 * torch.randn_like(some["features"])
            log = out(torch.tanh(hidden(seen.clamp(-hdr.LIMIT, hdr.LIMIT))))
            strength = torch.stack([log[..., 0].clamp(*hdr.RADIANCE), log[..., 1].clamp(*hdr.IRRADIANCE)], 1).exp()
            strength = strength * some["there"][:, None]
            got = some["shown"] + torch.einsum("nkr,nkrd->nd", strength, some["kernels"])
            error = ((got - some["true"]).abs() / some["true"]).mean(1)
            loss = torch.log1p(error / ERROR).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {
        "mean": mean, "deviation": deviation, "hidden": hidden.weight.T, "hidden_bias": hidden.bias,
        "out": out.weight.T, "out_bias": out.bias,
    }  # fmt: skip


def beside(networks: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Networks fitted on the same cases as one, whose answer is their mean."""
    count = len(networks)
    joined = {
        "mean": networks[0]["mean"],
        "deviation": networks[0]["deviation"],
        "hidden": torch.cat([net["hidden"] for net in networks], dim=1),
        "hidden_bias": torch.cat([net["hidden_bias"] for net in networks]),
        "out": torch.cat([net["out"] for net in networks]) / count,
        "out_bias": torch.stack([net["out_bias"] for net in networks]).mean(0),
    }
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in joined.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=user_cache_path("panoform-training", appauthor=False))
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=10_000, help="at most so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path(hdr.__file__).with_name("hdr.safetensors"))
    options = parser.parse_args()
    cases = cases_of(options.data / str(options.height) / "train", options.scenes)
    networks = [fit(cases, seed, options.epochs) for seed in range(NETWORKS)]
    save_file(beside(networks), options.out, metadata={"made by": "python -m panoform.backend.training.hdr"})


if __name__ == "__main__":
    main()
