"""The job `perceive`: estimate maps of a panorama with OmniX's pipeline."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...shared.engines import EngineSettings
from ...shared.jobs import perceive as contract
from ...shared.jobs.perceive import Info, PerceiveReply, PerceiveRequest, PerceiveSettings
from ...shared.maps import DEFAULT_MAPS, MAPS, check_names
from ...shared.protocol.errors import OutputError
from ..io import panoramas, results
from ..io.results import Perceived
from ..jobs.progress import ProgressReporter, Silent, Stage, StagedProgress
from ..lighting import exposure
from ..models import device, lora, records
from ..models.cache import ModelCache
from ..models.flux import loader
from ..models.flux.checkpoints import ModelConfig
from ..models.flux.loader import FluxModel, Source
from ..pipelines.omnix import TASKS, OmniXPipeline
from ..scene import floor
from . import decode, postprocess

#: Task → the maps that it produces.
MAPS_OF_TASK: dict[str, tuple[str, ...]] = {
    "rgb_to_depth": ("distance",),
    "rgb_to_normal": ("normal",),
    "rgb_to_albedo": ("albedo",),
    "rgb_to_pbr": ("roughness", "metallic"),
    "rgb_to_semantic": ("semantic",),
}
UNTRAINED = "The built-in starter model is untrained: its maps do not show your scene."
FRAME = "centre of the panorama +X, its left (u = 0.25) +Y, up +Z; right-handed (Blender's world axes)"

#: Number of previews of each map, and their maximum width in pixels.
_PREVIEWS = 5
_PREVIEW_WIDTH = 256


@dataclass(frozen=True)
class _Sampling:
    """The settings of sampling, with the model's defaults resolved."""

    num_inference_steps: int
    guidance_scale: float
    height: int
    seed: int
    cache: float = 0.0


def _sampling(settings: PerceiveSettings, config: ModelConfig) -> _Sampling:
    return _Sampling(
        settings.num_inference_steps or config.num_inference_steps,
        config.guidance_scale if settings.guidance_scale is None else settings.guidance_scale,
        settings.height or config.height,
        settings.seed,
        settings.cache,
    )


@dataclass(frozen=True)
class _Input:
    """The panorama as input of the model."""

    #: sRGB picture at the height of the maps, (H, W, 3) float32 in [0, 1], and how it was exposed.
    picture: np.ndarray
    exposure: dict[str, float | str] | None
    #: The same at each input height, in ascending order.
    pictures: list[np.ndarray]

    @property
    def size(self) -> str:
        """Size of the largest picture, for messages."""
        height, width = self.pictures[-1].shape[:2]
        return f"{width} × {height}"


def load_bundled(models: ModelCache) -> None:
    """Load the model that is built in, with the adapters of the default maps, where it runs on the CPU.

    A GPU's memory is left to other programs until there is a job.
    """
    source = loader.find(EngineSettings(), Silent())
    if source.device.type == "cpu":
        loader.load(models, source, _tasks(DEFAULT_MAPS), Silent())


def run(request: PerceiveRequest, models: ModelCache, reporter: ProgressReporter) -> PerceiveReply:
    """Perceive the requested maps, and write them to the result folder if one is given."""
    directory = Path(request.directory) if request.directory else None
    if directory:
        if not directory.is_absolute():
            raise OutputError(f"{directory} isn't an absolute path.", "Give the full path of the folder.")
        results.check_folder(directory, check_names(request.settings.maps), overwrite=request.overwrite)
    perceived = perceive(request, models, reporter)
    encoded = results.encode_maps(perceived.maps)
    if directory:
        results.write(directory, perceived, encoded, overwrite=request.overwrite)
    maps = {name: np.frombuffer(data, np.uint8) for name, data in encoded.items()}
    return PerceiveReply(id=request.id, maps=maps, info=perceived.info)


def perceive(request: PerceiveRequest, models: ModelCache, reporter: ProgressReporter) -> Perceived:
    """Perceive the requested maps.

    A seed's result is reproducible bit for bit on the same machine, and a map does not depend on the other requested
    ones, except that the yaw of OmniX's normals is aligned if distance is requested too.

    Raise InputError if the request is invalid, ModelError if the model can't be loaded or run, and Cancelled from
    `reporter` within one step.
    """
    began = time.monotonic()
    contract.check(request)
    names = check_names(request.settings.maps)
    panorama = panoramas.check(request.panorama, request.encoding, repair=request.settings.repair)
    source = loader.find(request.engine, reporter)
    config = source.checkpoint.config
    sampling = _sampling(request.settings, config)
    inputs = _expose(panorama, request, config.input_heights(sampling.height), sampling.height)

    turbo = lora.find(request.settings.turbo, reporter) if request.settings.turbo else None

    tasks = _tasks(names)
    model = loader.load(models, source, tasks, reporter)
    loader.make_room(models, model, inputs.pictures[-1].shape[0], _streams(tasks))
    seconds = {"loading": time.monotonic() - began}
    with device.translate_out_of_memory(f"Encoding the panorama at {inputs.size}", source.device):
        conditions = [_encode(model, picture) for picture in inputs.pictures]  # (1, 16, H/8, W/8) each
    with lora.applied(model.pipeline, turbo, request.settings.turbo_scale):
        maps = _sample_tasks(model, tasks, names, conditions, sampling, inputs.size, reporter, seconds)
    meanings = _align_normals(maps, config)
    if config.input_heights(sampling.height)[-1] != sampling.height:
        meanings = {name: f"{meaning}; computed at {inputs.size}, enlarged" for name, meaning in meanings.items()}
    for name in names:
        reporter.preview(name, preview(name, maps[name]))
    seconds["all"] = time.monotonic() - began
    info = _info(request, source, meanings, inputs.exposure, _floor(maps), seconds)
    return Perceived({name: maps[name] for name in names}, inputs.picture, info)


def _tasks(names: Iterable[str]) -> list[str]:
    """Return the tasks that produce the maps `names`."""
    wanted = set(names)
    return [task for task, produced in MAPS_OF_TASK.items() if wanted & set(produced)]


def _streams(tasks: list[str]) -> list[int]:
    return [len(TASKS[task].streams) for task in tasks]


def _expose(panorama: np.ndarray, request: PerceiveRequest, heights: list[int], height: int) -> _Input:
    exposed = {rows: exposure.expose(panoramas.resize(panorama, rows), request.encoding) for rows in {*heights, height}}
    return _Input(*exposed[height], [exposed[rows][0] for rows in heights])


def _encode(model: FluxModel, picture: np.ndarray) -> torch.Tensor:
    return model.pipeline.encode(torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1)


def _sample_tasks(
    model: FluxModel,
    tasks: list[str],
    names: tuple[str, ...],
    conditions: list[torch.Tensor],
    sampling: _Sampling,
    size: str,
    reporter: ProgressReporter,
    seconds: dict[str, float],
) -> dict[str, np.ndarray]:
    """Return the maps `names` in the order of `tasks`; add the duration of sampling and decoding to `seconds`.

    `conditions` are latents, (1, 16, H/8, W/8) each, in ascending order. All tasks are sampled in one pass.
    """
    passes = model.config.num_passes * len(conditions)
    names_of_task = {task: tuple(name for name in MAPS_OF_TASK[task] if name in names) for task in tasks}
    label = ", ".join(MAPS[name].label for task in tasks for name in names_of_task[task])
    stages = [Stage(label, passes * sampling.num_inference_steps, cost=len(tasks))]
    for task in tasks:
        labels = " and ".join(MAPS[name].label for name in names_of_task[task])
        stages.append(Stage(f"Decoding {labels}", 1, counted=False))
    progress = StagedProgress(reporter, stages)

    def decoded(task: str, picture: np.ndarray) -> dict[str, np.ndarray]:
        maps = decode.decode(TASKS[task].target, picture, model.config.decode)
        return {name: maps[name] for name in names_of_task[task]}

    def show(task: str, picture: np.ndarray) -> None:
        for name, pixels in decoded(task, picture).items():
            reporter.preview(name, preview(name, pixels))

    every = -(-passes * sampling.num_inference_steps // _PREVIEWS)
    maps: dict[str, np.ndarray] = {}
    hint = partial(loader.advice, model, 8 * conditions[-1].shape[-2], _streams(tasks))
    with device.translate_out_of_memory(f"{label} at {size}", model.source.device, hint):
        started = time.monotonic()
        samples = [_sample(model, tasks, condition, sampling, progress, every, show) for condition in conditions]
        seconds["sampling"], started = time.monotonic() - started, time.monotonic()
        for i, task in enumerate(tasks):
            merged = reduce(postprocess.merge_scales, (_picture(model, latents[i : i + 1]) for latents in samples))
            if model.config.token_noise and TASKS[task].target == "depth":
                merged = postprocess.remove_token_noise(merged, model.config.token_noise)
            maps |= decoded(task, panoramas.resize(merged, sampling.height))
            progress.step_done()
        seconds["decoding"] = time.monotonic() - started
    return maps


def _align_normals(maps: dict[str, np.ndarray], config: ModelConfig) -> dict[str, str]:
    """Align the normals' yaw with the distances where it isn't reliable; return the meaning of each map."""
    meanings = {name: MAPS[name].meaning for name in MAPS if name in maps}
    if "normal" in maps and not config.reliable_yaw:
        if "distance" in maps:
            maps["normal"], yaw_deg = decode.realign_yaw(maps["normal"], maps["distance"])
            meanings["normal"] += f"; turned about +Z by {yaw_deg:.1f}° to agree with the distance map"
        else:
            meanings["normal"] += "; its yaw is not reliable, and there was no distance map to align it with"
    return meanings


def identity(engine: EngineSettings, settings: PerceiveSettings, source: Source) -> dict[str, Any]:
    """Return the fields of `Info` that say by what and how maps are made, with all defaults resolved."""
    sampling = _sampling(settings, source.checkpoint.config)
    return {
        "engine": engine.engine,
        "model": records.name(source.checkpoint.name, engine),
        "adapters": records.name(source.checkpoint.adapters_name, engine),
        "weights": records.digests(source.checkpoint.name, source.checkpoint.adapters_name, settings.turbo),
        "dtype": device.dtype_name(source.settings, source.dtype),
        "size": (sampling.height, 2 * sampling.height),
        "seed": sampling.seed,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "approximations": _approximations(engine, settings),
    }


def _approximations(engine: EngineSettings, settings: PerceiveSettings) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    if engine.attention != "auto":  # some kernels round
        found["attention"] = engine.attention
    if settings.cache:
        found["cache"] = settings.cache
    if settings.turbo:
        found |= {"turbo": records.name(settings.turbo, engine), "turbo_scale": settings.turbo_scale}
    return found


def _info(
    request: PerceiveRequest,
    source: Source,
    meanings: dict[str, str],
    exposed: dict[str, float | str] | None,
    floor_plane: tuple[float, float, float, float] | None,
    seconds: dict[str, float],
) -> Info:
    checkpoint = source.checkpoint
    return Info(
        panoform=metadata.version("panoform"),
        **identity(request.engine, request.settings, source),
        notice="" if checkpoint.config.trained else UNTRAINED,
        maps=meanings,
        frame=FRAME,
        source=request.source,
        source_notes=request.source_notes,
        source_size=request.source_size or (request.panorama.shape[0], request.panorama.shape[1]),
        exposure=exposed,
        floor=floor_plane,
        device=device.name(source.device),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("torch", "diffusers", "numpy")},
    )


def _floor(maps: dict[str, np.ndarray]) -> tuple[float, float, float, float] | None:
    """Return the floor that maps show, as in `Info`."""
    found = floor.of_maps(maps["distance"], maps.get("normal")) if "distance" in maps else None
    if found is None:
        return None
    x, y, z = map(float, found.normal)
    return x, y, z, float(found.height)


def _picture(model: FluxModel, latents: torch.Tensor) -> np.ndarray:
    """Decode latents (1, 16, h, w) into a picture (H, W, 3) in [0, 1]."""
    return model.pipeline.decode(latents)[0].permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def _sample(
    model: FluxModel,
    tasks: list[str],
    condition: torch.Tensor,
    sampling: _Sampling,
    progress: StagedProgress,
    every: int,
    show: Callable[[str, np.ndarray], None],
) -> torch.Tensor:
    """Run `tasks` on latents (1, 16, H/8, W/8): return latents (len(tasks), 16, H/8, W/8), the mean of all passes.

    Call `show` with the intermediate picture of each task every `every` steps, unless a pass is a single step: decoding
    them would take longer than that.
    """
    pipeline, config, steps = model.pipeline, model.config, sampling.num_inference_steps
    start = condition
    if config.start == "noise":
        # Every map starts from the noise of the seed, generated on the CPU: the same on all devices and for all tasks.
        generator = torch.Generator().manual_seed(sampling.seed)
        start = torch.randn(condition.shape, generator=generator, dtype=torch.float32)
    shifts = _shifts(condition.shape[-1], config.num_passes)

    def on_step_end(
        index: int, _: OmniXPipeline, step: int, __: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> None:
        progress.step_done()
        done = index * steps + step + 1
        if steps > 1 and done % every == 0 and done < steps * len(shifts):
            denoised = tensors["denoised"].roll(-shifts[index], -1)
            small = F.avg_pool2d(denoised, max(1, condition.shape[-1] * 8 // _PREVIEW_WIDTH))
            for i, task in enumerate(tasks):
                show(task, _picture(model, small[i : i + 1]))

    target = condition.new_zeros(len(tasks), *condition.shape[1:])
    prompt = model.perception_prompt
    for index, shift in enumerate(shifts):
        latents = pipeline(
            tasks,
            condition_latents={"rgb": condition.roll(shift, -1)},
            prompt_embeds=prompt["prompt_embeds"],
            pooled_prompt_embeds=prompt["pooled_prompt_embeds"],
            latents=start.roll(shift, -1),
            num_inference_steps=steps,
            guidance_scale=sampling.guidance_scale,
            output_type="latent",
            cache=sampling.cache,
            callback_on_step_end=partial(on_step_end, index),
            check=progress.reporter.check_cancelled,
        ).images
        target += latents.roll(-shift, -1) / len(shifts)  # pyright: ignore[reportAttributeAccessIssue]
    return target


def _shifts(columns: int, num_passes: int) -> list[int]:
    """Return the shift of each pass in columns of latents: evenly spaced, every second one odd.

    A token is two columns wide, so token borders differ in every second pass, and average out.
    """
    return [index * columns // num_passes // 2 * 2 + index % 2 for index in range(num_passes)]


def preview(name: str, pixels: np.ndarray) -> np.ndarray:
    """Return a small picture of map `name` (H, W, C) float32: (h, w, 3) uint8, at most 256 wide."""
    if pixels.shape[1] > _PREVIEW_WIDTH:
        pixels = panoramas.resize(pixels, _PREVIEW_WIDTH // 2)
    if name == "distance":
        pixels = pixels / pixels.max()
    elif name == "normal":
        pixels = pixels * 0.5 + 0.5
    scaled = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) * 255 + 0.5
    return np.ascontiguousarray(scaled.clip(0, 255).astype(np.uint8))
