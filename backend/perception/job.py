"""What a job needs: which weights, where, in which precision. Loads once, reuses, and makes maps of a panorama.

Torch is imported here and below, nowhere else in the backend.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...shared.engines import ENGINES, EngineSettings, PerceiveSettings, check_engine, check_perceive
from ...shared.maps import MAPS, check_names
from ...shared.protocol.errors import AdapterError, WeightsError
from ...shared.protocol.messages import Info
from ..generation import job
from ..io import panoramas
from ..io.panoramas import Encoding
from ..io.results import Perceived
from ..jobs.progress import Progress
from ..jobs.watch import Watch
from ..lighting import exposure
from ..models import device, hub
from ..models.flux import checkpoints, stream_adapters, text_encoding
from ..models.loaded import Loaded
from ..pipelines import dit360
from ..pipelines.omnix import TASKS, OmniXPipeline
from . import decode, scales, waves

#: Task → the maps that it draws.
MAPS_OF_TASK: dict[str, tuple[str, ...]] = {
    "rgb_to_depth": ("distance",),
    "rgb_to_normal": ("normal",),
    "rgb_to_albedo": ("albedo",),
    "rgb_to_pbr": ("roughness", "metallic"),
    "rgb_to_semantic": ("semantic",),
}
UNTRAINED = "The built-in starter model is untrained: its maps show the plumbing, not your scene."
FRAME = "centre of the panorama +X, its left (u = 0.25) +Y, up +Z; right-handed (Blender's world axes)"

FILL_EDITS = "FLUX.1-Fill makes and edits panoramas, but perceives nothing and completes no picture."

#: How many previews a map gets while it is made, and how wide they are at most, in pixels.
_PREVIEWS = 5
_PREVIEW_WIDTH = 256


@dataclass(frozen=True)
class _Sampling:
    """How to sample: what was asked for, and the model's defaults for the rest."""

    num_inference_steps: int
    guidance_scale: float
    height: int
    seed: int


def _sampling(settings: PerceiveSettings, config: checkpoints.ModelConfig) -> _Sampling:
    return _Sampling(
        settings.num_inference_steps or config.num_inference_steps,
        config.guidance_scale if settings.guidance_scale is None else settings.guidance_scale,
        settings.height or config.height,
        settings.seed,
    )


class Engine:
    """One model in memory, for one job at a time. Not to be shared between threads."""

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    @property
    def name(self) -> str | None:
        """The model in memory, in words; None before the first job."""
        return self._loaded and ENGINES[self._loaded.settings.engine]

    @property
    def device(self) -> str | None:
        """The device it is on, in words ("NVIDIA GeForce RTX 4070"); None before the first job."""
        return self._loaded and device.name(self._loaded.device)

    @property
    def memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of that device; None before the first job."""
        return self._loaded and device.memory(self._loaded.device)

    def release(self) -> None:
        """Gives the model's memory back."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def perceive(
        self,
        panorama: np.ndarray,
        *,
        encoding: Encoding,
        source: str,
        engine: EngineSettings,
        settings: PerceiveSettings,
        watch: Watch,
    ) -> Perceived:
        """The maps that `settings` name of `panorama` (H, W, 3), W = 2·H to within 1 %.

        One seed gives one result, bit for bit, on one machine, and a map does not depend on which others are asked for;
        only the yaw of OmniX's normals is aligned where distance is there too.

        Raises InputError, ModelError, and Cancelled out of `watch`, within one step.
        """
        began = time.monotonic()
        check_engine(engine)
        check_perceive(settings)
        wanted = check_names(settings.maps)
        checked = panoramas.check(panorama, encoding, repair=settings.repair)
        where = device.choose(engine)
        checkpoint = checkpoints.locate(engine, watch)
        sampling = _sampling(settings, checkpoint.config)
        height = sampling.height
        shown = checkpoint.config.shown(height)
        pictures = {rows: exposure.expose(panoramas.resize(checked, rows), encoding) for rows in {*shown, height}}
        picture, exposed = pictures[height]

        tasks = [task for task, drawn in MAPS_OF_TASK.items() if set(drawn) & set(wanted)]
        loaded = self.load(engine, checkpoint, where, tasks, watch)
        seconds = {"loading": time.monotonic() - began}
        size = f"{2 * shown[-1]} × {shown[-1]}"
        with device.translate_out_of_memory(f"Encoding the panorama at {size}", where):
            # [(1, 3, H, W)] → [(1, 16, H/8, W/8)], the smallest first
            seen = [torch.from_numpy(pictures[rows][0]).permute(2, 0, 1)[None] * 2 - 1 for rows in shown]
            conditions = [loaded.pipeline.encode(image) for image in seen]

        looks = checkpoint.config.turns * len(shown)
        progress = Progress(watch, len(tasks), looks * sampling.num_inference_steps)
        made: dict[str, np.ndarray] = {}
        for task in tasks:
            started = time.monotonic()
            names = tuple(name for name in MAPS_OF_TASK[task] if name in wanted)
            label = " and ".join(MAPS[name].label for name in names)
            progress.begin(label)
            with device.translate_out_of_memory(f"{label} at {size}", where):
                made |= _perceive(loaded, task, names, conditions, sampling, progress)
            seconds[", ".join(names)] = time.monotonic() - started
        meanings = {name: MAPS[name].meaning for name in wanted}
        if "normal" in wanted and not checkpoint.config.exact_yaw:
            if "distance" in wanted:
                made["normal"], yaw_deg = decode.realign_yaw(made["normal"], made["distance"])
                meanings["normal"] += f"; turned about +Z by {yaw_deg:.1f}° to agree with the distance map"
            else:
                meanings["normal"] += "; its yaw is not reliable, and there was no distance map to align it with"
        if shown[-1] != height:
            meanings = {name: f"{meaning}; drawn at {size}, enlarged" for name, meaning in meanings.items()}
        for name in wanted:
            progress.preview(name, preview(name, made[name]))
        seconds["all"] = time.monotonic() - began

        info = Info(
            panoform=metadata.version("panoform"),
            engine=engine.engine,
            model=checkpoint.name,
            adapters=checkpoint.adapters_name,
            notice="" if checkpoint.config.trained else UNTRAINED,
            maps=meanings,
            frame=FRAME,
            source=source,
            source_size=(panorama.shape[0], panorama.shape[1]),
            size=(height, 2 * height),
            exposure=exposed,
            seed=sampling.seed,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            device=device.name(where),
            dtype=device.dtype_name(loaded.dtype),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            versions={"python": platform.python_version()}
            | {package: metadata.version(package) for package in ("torch", "diffusers", "numpy")},
        )
        return Perceived({name: made[name] for name in wanted}, picture, info)

    # Beside perception: they ask this engine, their loader, for the model.
    generate = job.generate
    edit = job.edit

    def load(
        self,
        settings: EngineSettings,
        checkpoint: checkpoints.Checkpoint,
        where: torch.device,
        tasks: list[str],
        watch: Watch,
    ) -> Loaded:
        """The model with the adapters of `tasks`; what is in memory already stays there.

        Raises WeightsError and AdapterError.
        """
        loaded = self._loaded
        if loaded is None or loaded.settings != settings:
            self.release()
            watch.progress(f"Loading {checkpoint.config.name}", 0, 0, 0.0, None)
            loaded = self._loaded = _load(settings, checkpoint, where, tasks, watch)
        else:
            if tasks and dit360.is_fill(loaded.pipeline):
                raise WeightsError(FILL_EDITS, "Use FLUX.1-dev for this.")
            _find_adapters(checkpoint.adapters, [task for task in tasks if task not in loaded.pipeline.resident], watch)
        for task in tasks:
            if task not in loaded.pipeline.resident:
                watch.progress("Loading adapters", 0, 0, 0.0, None)
                loaded.pipeline.load_adapters(checkpoint.adapters, task)
        return loaded


def _perceive(
    loaded: Loaded,
    task: str,
    names: tuple[str, ...],
    conditions: list[torch.Tensor],
    sampling: _Sampling,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Maps `names` by `task` of the panorama whose latents are `conditions`, each (1, 16, H/8, W/8), smallest first."""
    config = loaded.checkpoint.config

    def told(picture: np.ndarray) -> dict[str, np.ndarray]:
        drawn = decode.decode(TASKS[task].target, picture, config.decode)
        return {name: drawn[name] for name in names}

    def show(picture: np.ndarray) -> None:
        for name, pixels in told(picture).items():
            progress.preview(name, preview(name, pixels))

    steps = len(conditions) * config.turns * sampling.num_inference_steps
    every = -(-steps // _PREVIEWS)
    pictures = [_draw(loaded, task, condition, sampling, progress, every, show) for condition in conditions]
    merged = reduce(scales.merge, pictures)
    if config.waves and TASKS[task].target == "depth":
        merged = waves.even_out(merged, config.waves)
    made = told(panoramas.resize(merged, sampling.height))
    progress.decoded()
    return made


@torch.no_grad()
def _draw(
    loaded: Loaded,
    task: str,
    condition: torch.Tensor,
    sampling: _Sampling,
    progress: Progress,
    every: int,
    show: Callable[[np.ndarray], None],
) -> np.ndarray:
    """The picture, (H, W, 3) in [0, 1], that `task` makes of latents (1, 16, H/8, W/8).

    `show` is called with what it looks like so far, at every `every`th step.
    """
    pipeline, config, steps = loaded.pipeline, loaded.checkpoint.config, sampling.num_inference_steps
    start = condition
    if config.start == "noise":
        # Every map starts from the noise of the seed, drawn on the CPU: the same on all devices, whatever else is made.
        generator = torch.Generator().manual_seed(sampling.seed)
        start = torch.randn(condition.shape, generator=generator, dtype=torch.float32)

    def decoded(latents: torch.Tensor) -> np.ndarray:
        return pipeline.decode(latents)[0].permute(1, 2, 0).cpu().numpy()

    shifts = _shifts(condition.shape[-1], config.turns)

    def on_step_end(turn: int, _: OmniXPipeline, step: int, __: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        progress.stepped()
        done = turn * steps + step + 1
        # Under offload a preview would swap the transformer out and in again, which takes longer than a step.
        if done % every == 0 and done < steps * len(shifts) and loaded.settings.offload == "none":
            drawn = tensors["denoised"].roll(-shifts[turn], -1)
            show(decoded(F.avg_pool2d(drawn, max(1, condition.shape[-1] * 8 // _PREVIEW_WIDTH))))

    target = torch.zeros_like(condition)
    for turn, shift in enumerate(shifts):
        turned = pipeline(
            task,
            condition_latents={"rgb": condition.roll(shift, -1)},
            prompt_embeds=loaded.prompt["prompt_embeds"],
            pooled_prompt_embeds=loaded.prompt["pooled_prompt_embeds"],
            latents=start.roll(shift, -1),
            num_inference_steps=steps,
            guidance_scale=sampling.guidance_scale,
            output_type="latent",
            callback_on_step_end=partial(on_step_end, turn),
        ).images
        target += turned.roll(-shift, -1) / len(shifts)  # pyright: ignore[reportAttributeAccessIssue]
    return decoded(target)


def _shifts(columns: int, turns: int) -> list[int]:
    """By how many columns of latents each of `turns` turns a panorama: evenly around, every second by an odd number.

    A token is two columns wide, so the borders of tokens lie elsewhere every second time, and average out.
    """
    return [turn * columns // turns // 2 * 2 + turn % 2 for turn in range(turns)]


def _load(
    settings: EngineSettings, checkpoint: checkpoints.Checkpoint, where: torch.device, tasks: list[str], watch: Watch
) -> Loaded:
    dtype = device.choose_dtype(settings, where)
    base = checkpoints.inspect(checkpoint.path)
    if tasks and base.is_fill:
        raise WeightsError(FILL_EDITS, "Use FLUX.1-dev for this.")
    _find_adapters(checkpoint.adapters, tasks, watch)  # before gigabytes are read
    embeds = text_encoding.embeds(checkpoint, base, watch)
    with device.translate_out_of_memory(f"Loading {checkpoint.config.name}", where):
        pipeline = checkpoints.load(base, dtype)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.position_rows = checkpoint.config.position_rows
        if settings.offload == "model":
            pipeline.enable_model_cpu_offload(device=where)
        elif settings.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=where)
        else:
            pipeline.to(where)
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return Loaded(settings, checkpoint, pipeline, embeds, where, dtype)


def _find_adapters(source: str, tasks: list[str], watch: Watch) -> None:
    """Makes sure that the adapters of `tasks` are here, and downloads them. Raises AdapterError, Cancelled."""
    wanted = [(task, stream) for task in tasks for stream in TASKS[task].streams]
    if wanted and hub.is_id(source) and not Path(source).is_dir():
        files = [name for stream in wanted for name in stream_adapters.filenames(*stream)]
        hub.fetch(source, files, checkpoints.models_folder() / "OmniX", watch, AdapterError)
    for task, stream in wanted:
        stream_adapters.find(source, task, stream)


def preview(name: str, pixels: np.ndarray) -> np.ndarray:
    """What map `name`, (H, W, C) float32, looks like: (h, w, 3) uint8, at most 256 wide."""
    if pixels.shape[1] > _PREVIEW_WIDTH:
        pixels = panoramas.resize(pixels, _PREVIEW_WIDTH // 2)
    if name == "distance":
        pixels = pixels / pixels.max()
    elif name == "normal":
        pixels = pixels * 0.5 + 0.5
    shown = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) * 255 + 0.5
    return np.ascontiguousarray(shown.clip(0, 255).astype(np.uint8))
