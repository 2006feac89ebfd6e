"""Enlarge views by 2: their pixels, or their latents by Stable Diffusion's latent upscaler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_latent_upscale import (
    StableDiffusionLatentUpscalePipeline,
)
from torch import Tensor

from ...shared.protocol.errors import WeightsError
from ..jobs.progress import ProgressReporter
from ..models import config_bounds, folders, hub, parts
from ..pipelines.multiview import MultiViewPipeline

UPSCALER_ID = "stabilityai/sd-x2-latent-upscaler"
FOLDER = "sd-x2-latent-upscaler"
_FILES = ("model_index.json", "scheduler/*", "tokenizer/*", "*/config.json", "unet/*.safetensors",
          "text_encoder/*.safetensors")  # fmt: skip
STEPS = 10
_AGAIN = f"Put {UPSCALER_ID} into the folder of models, or choose another way to upscale."


def bicubic(images: Tensor) -> Tensor:
    """Enlarge images (N, 3, H, W) in [0, 1] to (N, 3, 2·H, 2·W)."""
    return F.interpolate(images, scale_factor=2, mode="bicubic").clamp(0, 1)


def locate(reporter: ProgressReporter) -> Path:
    """Return the folder of the latent upscaler, downloading it from the hub if needed. Raise WeightsError."""
    local = folders.models_folder() / FOLDER
    return local if local.is_dir() else hub.fetch(UPSCALER_ID, _FILES, local, reporter)


def load(folder: Path, base: MultiViewPipeline, device: torch.device) -> StableDiffusionLatentUpscalePipeline:
    """Load the latent upscaler in the precision of `base`, whose VAE it shares. Raise WeightsError."""
    part = parts.part_of_folder(folder / "unet", UNet2DConditionModel, _AGAIN)
    parts.check_tensors(part, _AGAIN)
    config_bounds.check_folder(folder, _AGAIN)
    try:
        pipeline = StableDiffusionLatentUpscalePipeline.from_pretrained(
            folder, unet=parts.load(part, base.unet.dtype), vae=base.vae, dtype=base.unet.dtype,
            use_safetensors=True, local_files_only=True,
        )  # fmt: skip
    except Exception as error:  # transformers checks no configs: one can make it raise anything
        raise WeightsError(f"The latent upscaler in {folder} can't be loaded: {error}", _AGAIN) from error
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.text_encoder):
        module.to(device)
    return pipeline


def latent(
    pipeline: StableDiffusionLatentUpscalePipeline, latents: Tensor, seed: int, step_done: Callable[[], None]
) -> Tensor:
    """Enlarge latents (N, 4, h, w) to (N, 4, 2·h, 2·w), float32. `step_done` is called after each.

    The upscaler knows no other view: all have the same noise, so that they get alike detail.
    """
    results = []
    for one in latents:
        result = pipeline(
            prompt="",
            image=one[None],
            num_inference_steps=STEPS,
            guidance_scale=0,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            callback=None,
        )
        results.append(result.images.float())  # pyright: ignore
        step_done()
    return torch.cat(results)
