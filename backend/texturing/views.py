"""Six views of an object from its control images and a reference picture or a prompt, by multi-view diffusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F

from ...shared.engines import EngineSettings
from ...shared.jobs.texture import TextureSettings
from ...shared.protocol.errors import NumericsError, SettingError
from ..jobs.progress import ProgressReporter, Stage, StagedProgress, report_loading
from ..models import device, folders
from ..models.cache import ModelCache
from ..models.sd21 import loader
from ..models.sd21.loader import MultiViewModel, Source
from ..pipelines.multiview import NEGATIVE_PROMPT, PROMPT, MultiViewPipeline
from . import reference, upscale, upscale_file, view_files

#: Guidance of the tasks, as in MV-Adapter's inference scripts.
GUIDANCE = {"ig2mv": 3.0, "tg2mv": 7.0}
_PREVIEWS = 6
#: Width of a view in a preview of six, in pixels: three in a row are at most 256.
_PREVIEW_SIDE = 80
#: Costs of stages in units of a step.
_DECODING, _UPSCALING = 1.0, 0.3


@dataclass(frozen=True)
class Drawn:
    """Views, and how they were drawn."""

    #: (6, H, H, 3) float32 sRGB in [0, 1], rounded to 8 bits.
    views: np.ndarray
    source: Source
    #: Without open defaults.
    settings: TextureSettings
    notices: tuple[str, ...]
    #: The progress, whose next stage is the first of `after`.
    progress: StagedProgress


def resolved(settings: TextureSettings, engine: EngineSettings, task: str) -> TextureSettings:
    """Return the settings without open defaults."""
    quality = engine.spec.qualities["standard"]
    return msgspec.structs.replace(
        settings,
        prompt=settings.prompt.strip() or PROMPT,
        negative_prompt=NEGATIVE_PROMPT if settings.negative_prompt is None else settings.negative_prompt,
        num_inference_steps=settings.num_inference_steps or quality.num_inference_steps,
        guidance_scale=GUIDANCE[task] if settings.guidance_scale is None else settings.guidance_scale,
        view_size=settings.view_size or quality.height,
    )


def task_of(picture: np.ndarray | None) -> str:
    """Return the task of the pipeline."""
    return "tg2mv" if picture is None else "ig2mv"


def draw(
    control: np.ndarray,
    picture: np.ndarray | None,
    engine: EngineSettings,
    settings: TextureSettings,
    models: ModelCache,
    reporter: ProgressReporter,
    after: Sequence[Stage] = (),
) -> Drawn:
    """Draw six views.

    Args:
        control: (6, H, H, 6) float32 in [0, 1], H the size of the views in the settings.
        picture: the reference picture, (h, w, 4) uint8 with alpha; None: from the prompt alone.
        settings: resolved.
        after: stages of the job that follow.

    A seed's views are reproducible bit for bit on the same machine. Where NaN or infinite values occur in half
    precision, the views are drawn once more in float32, and a notice says so. Raise InputError, ModelError, and
    Cancelled from `reporter` within one step.
    """
    notices: list[str] = []
    image = None
    if picture is not None:
        image, notice = reference.prepare(picture, control.shape[1])
        notices += [notice] if notice else []
    task = task_of(picture)
    source = loader.find(engine, task, reporter)
    while True:
        try:
            views, progress = _draw(control, image, source, settings, models, reporter, after)
        except NumericsError as error:
            if source.dtype == torch.float32:
                raise
            notices.append(f"{error.message} The views were drawn again in float32.")
            source = dataclasses.replace(source, dtype=torch.float32)
            continue
        return Drawn(view_files.rounded(views), source, settings, tuple(notices), progress)


def _draw(
    control: np.ndarray,
    image: np.ndarray | None,
    source: Source,
    settings: TextureSettings,
    models: ModelCache,
    reporter: ProgressReporter,
    after: Sequence[Stage],
) -> tuple[np.ndarray, StagedProgress]:
    """Return views (6, H, H, 3) in [0, 1], and the progress. Raise NumericsError for NaN."""
    upscaler_folder = upscale.locate(reporter) if settings.upscale == "latent" else None  # before gigabytes are read
    file = folders.expanded(settings.upscaler)
    enlarging = upscale_file.load(file, source.device) if settings.upscale == "file" else None
    model = loader.load(models, source, reporter)
    pipeline, steps = model.pipeline, settings.num_inference_steps or 0
    _check_prompts(pipeline, settings)
    stages = [Stage("Views", steps), Stage("Decoding the views", 1, _DECODING, counted=False), *after]
    if upscaler_folder:
        stages.insert(1, Stage("Upscaling the views", len(control), _UPSCALING))
    report_loading(reporter, "Views")
    progress = StagedProgress(reporter, stages)
    size = f"Six views of {control.shape[1]} px"
    try:
        with device.translate_out_of_memory(size, source.device, _less_memory(source)), torch.no_grad():
            latents = pipeline(
                source.task,
                torch.from_numpy(np.ascontiguousarray(control.transpose(0, 3, 1, 2), np.float32)),
                None if image is None else torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1,
                settings.prompt,
                negative_prompt=settings.negative_prompt,
                num_inference_steps=steps,
                guidance_scale=settings.guidance_scale or 0.0,
                mv_scale=settings.mv_scale,
                reference_scale=settings.reference_scale,
                control_scale=settings.control_scale,
                control_factor=settings.control_factor,
                generator=torch.Generator().manual_seed(settings.seed),
                scheduler=settings.scheduler,
                output_type="latent",
                callback_on_step_end=_Watch(model, progress, steps),
            ).images
            assert isinstance(latents, torch.Tensor)
            if upscaler_folder:
                upscaler = upscale.load(upscaler_folder, pipeline, source.device)
                latents = upscale.latent(upscaler, latents, settings.seed, progress.step_done)
                del upscaler
            images = pipeline.decode(latents)  # [6, 3, H, H]
            if settings.upscale == "bicubic":
                images = upscale.bicubic(images)
            if enlarging is not None:
                images = upscale_file.enlarge(enlarging, images, file, reporter.check_cancelled)
            progress.step_done()
    finally:
        pipeline.maybe_free_model_hooks()
    return images.permute(0, 2, 3, 1).cpu().numpy(), progress


class _Watch:
    """The callback of the pipeline: reports each step, and some previews."""

    def __init__(self, model: MultiViewModel, progress: StagedProgress, steps: int) -> None:
        self._progress, self._steps, self._every = progress, steps, -(-steps // _PREVIEWS)
        # With offload a preview would move the U-Net out and in again, which takes longer than a step.
        self._previews = not model.offloaded

    def __call__(self, pipeline: MultiViewPipeline, step: int, _: Any, tensors: dict[str, torch.Tensor]) -> None:
        self._progress.step_done()
        if self._previews and (step + 1) % self._every == 0 and step + 1 < self._steps:
            self._progress.reporter.preview("views", preview(pipeline, tensors["denoised"]))


def preview(pipeline: MultiViewPipeline, latents: torch.Tensor) -> np.ndarray:
    """Return a small picture of views from their latents (6, 4, h, h): two rows of three, (h', w', 3) uint8."""
    pixels = latents.shape[-1] * pipeline.vae_scale_factor
    small = F.avg_pool2d(latents, max(1, -(-pixels // _PREVIEW_SIDE)))
    images = (pipeline.decode(small) * 255 + 0.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (images[:3], images[3:])])


def _check_prompts(pipeline: MultiViewPipeline, settings: TextureSettings) -> None:
    """Raise SettingError for a prompt with more tokens than the text encoder reads."""
    if pipeline.tokenizer is None:
        return
    limit = pipeline.tokenizer.model_max_length
    for name, text in (("The prompt", settings.prompt), ("The negative prompt", settings.negative_prompt)):
        tokens = len(pipeline.tokenizer(text, verbose=False).input_ids)
        if tokens > limit:
            raise SettingError(
                f"{name} is {tokens} tokens long; the model reads {limit}.",
                f"Shorten it to about {len(str(text).split()) * limit // tokens} words.",
            )


def _less_memory(source: Source) -> str:
    if source.device.type == "cpu":  # offloading needs a GPU
        return "Use smaller views, and close other programs."
    return "Use smaller views, or the offload mode model, then sequential; close other programs on the device."
