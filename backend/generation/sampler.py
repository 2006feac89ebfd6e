"""Draw one panorama with a FLUX model that is in memory: the steps that generation.py puts together.

Pictures are (1, 3, H, W) float32 in [0, 1], masks (1, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from ...shared.jobs.generate import GenerateSettings
from ..jobs.pace import Pace
from ..pipelines.dit360 import DiT360Pipeline
from ..pipelines.omnix import OmniXPipeline

#: Sides of the square picture that OmniX completes to a panorama, in pixels.
SQUARE = 1024
#: How far back to noise an enlarged panorama goes to be refined, and the height and width of the windows in pixels.
REFINE_STRENGTH, WINDOW = 0.3, (1024, 1024)
#: Columns of tokens that a LoRA which doesn't know DiT360's copies is shown beyond the seam.
FOREIGN_PADDING = 4
#: How many previews there are of each panorama, and how wide they are at most, in pixels.
_PREVIEWS, _PREVIEW_WIDTH = 8, 256

#: prompt_embeds and pooled_prompt_embeds; negative_prompt_embeds and negative_pooled_prompt_embeds where there are any.
Embeds = Mapping[str, Any]


@dataclass
class Drawing:
    """One panorama in the making."""

    pipeline: OmniXPipeline
    #: With no default left open.
    settings: GenerateSettings
    #: All noise of this panorama comes from it, on the CPU, so that devices agree.
    generator: torch.Generator
    pace: Pace
    #: Whether to tell previews; under offload one takes longer than a step.
    previews: bool

    def words(self, embeds: Embeds, height: int) -> Tensor:
        """What the words say, at height × 2 · height."""
        return self._flux(embeds, height)

    def change(self, picture: Tensor, mask: Tensor | None, strength: float, embeds: Embeds) -> Tensor:
        """`picture` changed where `mask` is 1 (None: everywhere), as large as it is."""
        return self._flux(embeds, picture.shape[-2], image=2 * picture - 1, mask_image=mask, strength=strength)

    def refine(self, picture: Tensor, mask: Tensor | None, embeds: Embeds) -> Tensor:
        """An enlarged `picture` with detail put in, where `mask` is 1 (None: everywhere)."""
        image = 2 * picture - 1
        return self._flux(
            embeds, picture.shape[-2], image=image, mask_image=mask, strength=REFINE_STRENGTH, tile=WINDOW
        )

    def square(self, embeds: Embeds) -> Tensor:
        """What the words say as an ordinary picture, SQUARE pixels a side."""
        flux = FluxPipeline(**self.pipeline.components)
        flux.set_progress_bar_config(disable=True)

        def on_step_end(_pipe: object, _step: int, _t: object, _tensors: object) -> dict[str, Tensor]:
            self.pace.stepped()
            return {}

        assert self.settings.num_inference_steps is not None
        return flux(
            **embeds,
            height=SQUARE,
            width=SQUARE,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            generator=self.generator,
            output_type="pt",
            callback_on_step_end=on_step_end,  # pyright: ignore[reportArgumentType]
        ).images.float()  # pyright: ignore

    def around(self, canvas: Tensor, embeds: Embeds) -> Tensor:
        """The panorama that OmniX makes of a canvas, which is mid-grey where nothing is known, as large as that."""
        return self.pipeline(
            "image_to_pano",
            {"masked_rgb": 2 * canvas - 1},
            **embeds,
            num_inference_steps=self.settings.num_inference_steps,  # pyright: ignore[reportArgumentType]
            guidance_scale=self.settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            generator=self.generator,
            callback_on_step_end=self._on_step_end,
        ).images.cpu()  # pyright: ignore

    def _flux(self, embeds: Embeds, height: int, **options) -> Tensor:
        flux = DiT360Pipeline(**self.pipeline.components)
        flux.set_progress_bar_config(disable=True)
        settings = self.settings
        dit360 = settings.method == "dit360" and settings.lora != ""
        return flux(
            **embeds,
            true_cfg_scale=settings.true_cfg_scale,
            height=height,
            width=2 * height,
            num_inference_steps=settings.num_inference_steps,  # pyright: ignore[reportArgumentType]
            guidance_scale=settings.guidance_scale,  # pyright: ignore[reportArgumentType]
            shift=settings.shift,
            generator=self.generator,
            padding=1 if dit360 else FOREIGN_PADDING,
            continue_positions=not dit360,
            callback_on_step_end=self._on_step_end,
            **options,
        ).images.cpu()  # pyright: ignore

    def _on_step_end(
        self, pipe: DiT360Pipeline | OmniXPipeline, step: int, _t: Tensor, tensors: dict[str, Tensor]
    ) -> None:
        self.pace.stepped()
        steps = self.settings.num_inference_steps or 1
        if self.previews and (step + 1) % -(-steps // _PREVIEWS) == 0:
            denoised = tensors["denoised"]
            small = F.avg_pool2d(denoised, max(1, denoised.shape[-1] * pipe.vae_scale_factor // _PREVIEW_WIDTH))
            self.pace.watch.preview("panorama", eight_bits(array(pipe.decode(small))))


def tensor(picture: np.ndarray) -> Tensor:
    """(H, W, C) → (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]


def mask_tensor(mask: np.ndarray | None) -> Tensor | None:
    """(H, W) bool → (1, 1, H, W); None stays None."""
    return None if mask is None else tensor(mask[..., None])


def array(picture: Tensor) -> np.ndarray:
    """(1, C, H, W) → (H, W, C)."""
    return picture[0].permute(1, 2, 0).float().cpu().contiguous().numpy()


def eight_bits(picture: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8, rounded."""
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)
