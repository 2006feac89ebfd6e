"""Sample one panorama with a FLUX model that is in memory: each method is one call of a pipeline.

Pictures are (1, 3, H, W) float32 in [0, 1], masks (1, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...shared.jobs.generate import GenerateSettings
from ..io import panoramas
from ..jobs.progress import StagedProgress
from ..pipelines.dit360 import DiT360Pipeline
from ..pipelines.omnix import OmniXPipeline

#: Width and height of the perspective picture that OmniX outpaints to a panorama, in pixels.
PICTURE_SIDE = 1024
#: Strength of refining an enlarged panorama; height and width of the windows in pixels.
REFINE_STRENGTH, WINDOW = 0.3, (1024, 1024)
#: Columns of tokens of circular padding for a LoRA that wasn't trained with DiT360's padding.
FOREIGN_PADDING = 4
#: Number of previews of each panorama, and their maximum width in pixels.
_PREVIEWS, _PREVIEW_WIDTH = 8, 256

#: prompt_embeds and pooled_prompt_embeds, and optionally negative_prompt_embeds and negative_pooled_prompt_embeds.
Embeds = Mapping[str, Any]


@dataclass
class Sampler:
    """Sample the panorama of one seed."""

    pipeline: OmniXPipeline
    #: With all defaults resolved.
    settings: GenerateSettings
    #: Source of all noise, on the CPU, for the same noise on all devices.
    generator: torch.Generator
    progress: StagedProgress
    #: Whether enlarged panoramas are refined.
    refines: bool

    def text_to_panorama(self, embeds: Embeds, height: int) -> Tensor:
        """Generate a panorama from the prompt, height × 2 · height."""
        return self._dit360(embeds, height)

    def edit(self, picture: Tensor, mask: Tensor | None, strength: float, embeds: Embeds) -> Tensor:
        """Change `picture` where `mask` is 1 (None: everywhere); the size is kept."""
        return self._dit360(embeds, picture.shape[-2], image=2 * picture - 1, mask_image=mask, strength=strength)

    def text_to_picture(self, embeds: Embeds) -> Tensor:
        """Generate a perspective picture from the prompt, PICTURE_SIDE × PICTURE_SIDE pixels."""
        pipeline = self._plain_pipeline()
        latents = pipeline(
            **embeds,
            height=PICTURE_SIDE,
            width=PICTURE_SIDE,
            num_inference_steps=self.settings.num_inference_steps,  # pyright: ignore[reportArgumentType]
            guidance_scale=self.settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            generator=self.generator,
            padding=0,
            output_type="latent",
            callback_on_step_end=lambda *_: self.progress.step_done(),
            check=self.progress.reporter.check_cancelled,
        ).images
        return pipeline.decode_picture(latents)  # pyright: ignore[reportArgumentType]

    def outpaint(self, canvas: Tensor, embeds: Embeds) -> Tensor:
        """Outpaint a canvas that is mid-grey where nothing is known; the size is kept."""
        return self.pipeline(
            "image_to_pano",
            {"masked_rgb": 2 * canvas - 1},
            **embeds,
            num_inference_steps=self.settings.num_inference_steps,  # pyright: ignore[reportArgumentType]
            guidance_scale=self.settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            generator=self.generator,
            callback_on_step_end=self._on_step_end,
            check=self.progress.reporter.check_cancelled,
        ).images.cpu()  # pyright: ignore

    def upscale(self, picture: np.ndarray, mask: np.ndarray | None, embeds: Embeds) -> np.ndarray:
        """Upscale a panorama (h, 2·h, 3) to the height of the settings, refining it inside `mask` (H, W).

        It is enlarged, partly noised, and denoised window by window.
        """
        if self.settings.height == len(picture):
            return picture
        enlarged = panoramas.resize(picture, self.settings.height)
        if not self.refines:
            return enlarged
        image = 2 * to_tensor(enlarged) - 1
        refined = self._dit360(
            embeds, len(enlarged), image=image, mask_image=mask_to_tensor(mask), strength=REFINE_STRENGTH, tile=WINDOW
        )
        return to_array(refined)

    def _dit360(self, embeds: Embeds, height: int, **options) -> Tensor:
        pipeline, settings = self._plain_pipeline(), self.settings
        own_lora = settings.method == "dit360" and settings.lora != ""
        return pipeline(
            **embeds,
            true_cfg_scale=settings.true_cfg_scale,
            height=height,
            width=2 * height,
            num_inference_steps=settings.num_inference_steps,  # pyright: ignore[reportArgumentType]
            guidance_scale=settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            shift=settings.shift,
            generator=self.generator,
            padding=1 if own_lora else FOREIGN_PADDING,
            continue_positions=not own_lora,
            callback_on_step_end=self._on_step_end,
            check=self.progress.reporter.check_cancelled,
            **options,
        ).images.cpu()  # pyright: ignore

    def _plain_pipeline(self) -> DiT360Pipeline:
        pipeline = DiT360Pipeline(**self.pipeline.components)
        pipeline.compute_dtype = self.pipeline.compute_dtype
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _on_step_end(
        self, pipe: DiT360Pipeline | OmniXPipeline, step: int, _t: Tensor, tensors: dict[str, Tensor]
    ) -> None:
        self.progress.step_done()
        steps = self.settings.num_inference_steps or 1
        if (step + 1) % -(-steps // _PREVIEWS) == 0:
            denoised = tensors["denoised"]
            small = F.avg_pool2d(denoised, max(1, denoised.shape[-1] * pipe.vae_scale_factor // _PREVIEW_WIDTH))
            self.progress.reporter.preview("panorama", to_uint8(to_array(pipe.decode(small))))


def to_tensor(picture: np.ndarray) -> Tensor:
    """(H, W, C) → (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]


def mask_to_tensor(mask: np.ndarray | None) -> Tensor | None:
    """(H, W) bool → (1, 1, H, W); None stays None."""
    return None if mask is None else to_tensor(mask[..., None])


def to_array(picture: Tensor) -> np.ndarray:
    """(1, C, H, W) → (H, W, C)."""
    return picture[0].permute(1, 2, 0).float().cpu().contiguous().numpy()


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8, rounded."""
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)
