"""DiT360: FLUX with one LoRA generates a panorama from text, or edits part of one.

Paper: arXiv 2510.11712. While it is denoised, the panorama is padded on either side with copies of the columns of
tokens beyond the seam. Images are (N, 3, H, W), latents (N, C, h, w) with h = H / scale.

DiT360's copies have the position ids of the originals, as in the reference. Originals and copies are then identical
to the transformer and stay so at every step; its LoRA was trained with that. Other LoRAs work better with position ids
that continue past the edges (`continue_positions`); those copies must be renewed after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift, retrieve_timesteps
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...shared.protocol.errors import PanoramaError, SettingError
from ...shared.weights import WEIGHTS
from .layers import tiling
from .layers.checks import check_finite, check_numbers, check_steps, check_values
from .layers.denoiser import Batch, denoiser
from .layers.latents import image_ids, pack, unpack
from .panorama_pipeline import PanoramaPipeline

#: Trigger phrase of the LoRA, before the description.
TRIGGER = "This is a panorama. The image shows"
#: Hub repository of the LoRA, and its file.
ADAPTER = WEIGHTS["dit360"].repository
ADAPTER_FILE = "adapter_model.safetensors"
#: The transformer's tiles overlap by their shorter side divided by this.
TILE_OVERLAP = 4


class DiT360Pipeline(PanoramaPipeline):
    """FLUX for panoramas. `from_pretrained` reads safetensors only; text encoders may be absent (None).

    It works with any FLUX LoRA, or none. With FLUX.1-Fill as its base, the transformer reads what an edit keeps; with
    any other base, that is restored after every step.
    """

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Encode images (N, 3, H, W) in [-1, 1] into seamless (N, C, h, w) float32 latents, the posterior's mode."""
        return self._normalize(self._encode_seamless(image))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (N, C, h, w) latents into seamless images (N, 3, H, W) float32 in [0, 1]."""
        return (self._decode_seamless(self._denormalize(latents)) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        true_cfg_scale: float = 1.0,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        latents: Tensor | None = None,
        height: int = 1024,
        width: int = 2048,
        num_inference_steps: int = 28,
        guidance_scale: float = 2.8,
        shift: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image: Tensor | None = None,
        mask_image: Tensor | None = None,
        strength: float = 1.0,
        tile: tuple[int, int] | None = None,
        padding: int = 1,
        continue_positions: bool = False,
        output_type: str = "pt",
        resync_padding: bool = True,
        callback_on_step_end: Callable[[DiT360Pipeline, int, Tensor, dict[str, Tensor]], Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> FluxPipelineOutput:
        """Generate N panoramas: one for each noise, else for each generator, else for each prompt.

        Args:
            prompt: text in the form that the LoRA was trained with, including `TRIGGER`.
            negative_prompt, true_cfg_scale: classifier-free guidance, where the scale is over 1.
            prompt_embeds: (N or 1, tokens, joint_attention_dim), instead of `prompt`; with `pooled_prompt_embeds`,
                (N or 1, pooled_projection_dim). The negative ones likewise.
            latents: (N, C, h, w) noise; sampled from `generator` by default.
            height, width: pixels, multiples of 16.
            shift: the scheduler's time shift; None: FLUX's own, by the number of tokens.
            image: (N or 1, 3, H, W) in [-1, 1], to be edited.
            mask_image: (N or 1, 1, H, W), 1 where `image` is edited, 0 where it is kept; None: edited everywhere.
            strength: share of the denoising steps that are run, in (0, 1]; 1 starts from pure noise.
            tile: (height, width) in pixels, multiples of 16: larger panoramas are denoised in tiles of this size.
            output_type: "pt" for (N, 3, H, W) in [0, 1], "latent" for (N, C, h, w), both float32.
            padding: columns of tokens copied to either side; none where the panorama is tiled.
            continue_positions: whether the copies' position ids continue past the edges.
            resync_padding: renew the copies after every step. False does not, as the reference.
            callback_on_step_end: called as `(pipe, step, timestep, {"latents", "denoised"})` after each step. `latents`
                are tokens, (N, h/2 · (w/2 + 2 · padding), 4C); `denoised` the predicted clean latents,
                (N, C, h, w). Raise in it to stop; its return value is ignored.
            check: called many times in a step; raise in it to stop.

        Raises:
            SettingError: no prompt, or two; an unknown output type; a number out of range; a mask without an image.
            PanoramaError: a size, noise, image or mask that doesn't fit.
            InputError: embeddings of the wrong shape, and NaN in what is given.
            WeightsError: a prompt must be encoded but the text encoders are absent.
            NumericsError: NaN or infinite values, naming the step and the precision.
        """
        # 1. Check the inputs
        shape = self._latent_shape(_count(latents, generator, prompt, prompt_embeds), height, width)
        _check_shape("noise", latents, shape, count=shape[:1])
        _check_shape("image", image, (shape[0], 3, height, width))
        _check_shape("mask", mask_image, (shape[0], 1, height, width))
        if output_type not in ("pt", "latent"):
            raise SettingError(f"There is no output type {output_type!r}.", 'Use "pt" or "latent".')
        check_steps(num_inference_steps, self.scheduler.config.num_train_timesteps)
        check_numbers(
            guidance_scale=guidance_scale, true_cfg_scale=true_cfg_scale, shift=1.0 if shift is None else shift
        )
        for name, values in (("noise", latents), ("image", image)):
            if values is not None:
                check_values(name, values)
        if not 0 < strength <= 1:
            raise SettingError(f"The strength is {strength:g}.", "It must be more than 0, and at most 1.")
        if image is None and (mask_image is not None or strength < 1):
            raise SettingError("There is no image to edit.", "Give an image with a mask or a strength.")
        device = self._execution_device

        # 2. Encode the prompts; classifier-free guidance doubles the batch
        embeds, pooled = self._embeds(prompt, prompt_embeds, pooled_prompt_embeds, shape[0])
        guided = true_cfg_scale > 1 and (negative_prompt is not None or negative_prompt_embeds is not None)
        if guided:
            negative = self._embeds(negative_prompt, negative_prompt_embeds, negative_pooled_prompt_embeds, shape[0])
            embeds, pooled = torch.cat([embeds, negative[0]]), torch.cat([pooled, negative[1]])  # [2N, …]

        # 3. Prepare the noise and the kept part; both are padded across the seam, except with tiles, which wrap around
        tile = (min(tile[0], height), min(tile[1], width)) if tile else (height, width)
        tiled = tile != (height, width)
        padding = 0 if tiled else padding
        beside = 2 * padding  # columns of latents
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        noise = _pad(latents.to(device, torch.float32), beside)  # [N, C, h, w + 4]
        source = None if image is None else _pad(self.encode(image), beside)
        change = None if mask_image is None else _pad(self._latent_mask(mask_image), beside)  # [N or 1, 1, h, w + 4]
        fill = _pad(self._fill_channels(image, mask_image, shape), beside) if is_fill(self) else None

        # 4. Prepare the timesteps, for the number of tokens that the transformer processes at once
        rows, columns = (side // 2 for side in noise.shape[2:])
        if tiled:
            rows, columns = (side // (2 * self.vae_scale_factor) for side in tile)
        self.set_timesteps(num_inference_steps, rows * columns, shift, device)
        first = min(num_inference_steps - 1, int(num_inference_steps * (1 - strength)))
        timesteps, sigmas = self.scheduler.timesteps[first:], self.scheduler.sigmas[first:]
        self.scheduler.set_begin_index(first)
        x = noise if source is None else sigmas[0] * noise + (1 - sigmas[0]) * source  # [N, C, h, w + 4]

        # 5. Denoise
        dtype, ids = self.compute_dtype, image_ids(rows, columns, device)  # [rows · columns, 3]
        copied = 0 if continue_positions else padding  # the copies have the positions of the originals
        ids[:, 2] = (ids[:, 2] - copied) % (columns - 2 * copied)
        batch = Batch(embeds.to(device, dtype), pooled.to(device, dtype), {})
        with (
            denoiser(
                self.transformer,
                [batch],
                timesteps,
                guidance_scale,
                ids,
                dtype=dtype,
                residency=self.residency,
                check=check,
            ) as predict,
            self.progress_bar(total=len(timesteps)) as progress_bar,  # pyright: ignore[reportCallIssue]
        ):

            def velocity_of(x: Tensor, step: int) -> Tensor:
                """Predict the velocity (N, C, h, w) float32 of latents (N, C', h, w)."""
                (tokens,) = predict(step, [pack(x).to(dtype)])
                return unpack(tokens.float(), x.shape[-2] // 2)

            for i, t in enumerate(timesteps):
                model_input = x if fill is None else torch.cat([x, fill.expand(len(x), -1, -1, -1)], dim=1)
                model_input = (
                    torch.cat([model_input, model_input]) if guided else model_input
                )  # [N or 2N, C or C', h, w + 4]
                if tiled:
                    overlap = min(rows, columns) // TILE_OVERLAP
                    velocity = tiling.blend(
                        partial(velocity_of, step=i), model_input, (rows, columns), overlap, unit_in=2, unit_out=2
                    )
                else:
                    velocity = velocity_of(model_input, i)  # [N or 2N, C, h, w + 4]
                if guided:
                    positive, negative = velocity.chunk(2)
                    velocity = negative + true_cfg_scale * (positive - negative)
                denoised = x - sigmas[i] * velocity
                x = self.scheduler.step(velocity, t, x, return_dict=False)[0]
                check_finite(x, f"step {first + i + 1} of {num_inference_steps}", dtype)
                if source is not None and change is not None and fill is None:
                    x = torch.lerp(sigmas[i + 1] * noise + (1 - sigmas[i + 1]) * source, x, change)
                if resync_padding:
                    x = _pad(_crop(x, beside), beside)
                if callback_on_step_end is not None:
                    results = {"latents": pack(x), "denoised": _crop(denoised, beside)}
                    callback_on_step_end(self, i, t, results)
                progress_bar.update()

        # 6. Decode
        x = _crop(x, beside)  # [N, C, h, w]
        images = x if output_type == "latent" else self.decode(x)
        self.maybe_free_model_hooks()
        return FluxPipelineOutput(images=images)  # pyright: ignore[reportArgumentType]

    def set_timesteps(self, num_inference_steps: int, tokens: int, shift: float | None, device: torch.device) -> None:
        """Set FLUX's timesteps: `num_inference_steps` from 1 to 0, shifted by `shift` or for the number of `tokens`."""
        config = self.scheduler.config
        by_tokens = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        retrieve_timesteps(
            self.scheduler,
            device=device,
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps),  # pyright: ignore
            mu=by_tokens if shift is None else math.log(shift),  # dynamic shifting takes its logarithm
        )

    def _latent_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        scale = self.vae_scale_factor
        if height < 2 * scale or width < 2 * scale or height % (2 * scale) or width % (2 * scale):
            raise PanoramaError(
                f"A panorama of {width} × {height} can't be made.", f"Both sides must be multiples of {2 * scale}."
            )
        return count, self.vae.config.latent_channels, height // scale, width // scale

    def _embeds(
        self, prompt: str | Sequence[str] | None, embeds: Tensor | None, pooled: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the prompts for `count` panoramas: (N, tokens, dim) and (N, dim)."""
        prompt = prompt if prompt is None or isinstance(prompt, str) else list(prompt)
        embeds, pooled = self._embed_prompt(prompt, embeds, pooled)
        if {len(embeds), len(pooled)} - {1, count}:
            raise SettingError(f"There are {len(embeds)} prompts for {count} panoramas.", "Give one, or one for each.")
        return embeds.expand(count, -1, -1), pooled.expand(count, -1)

    def _latent_mask(self, mask: Tensor) -> Tensor:
        """Reduce a mask (N, 1, H, W) to latents, (N, 1, h, w): 1 where any pixel is masked."""
        return F.max_pool2d((mask.to(self._execution_device) > 0).float(), self.vae_scale_factor)

    def _fill_channels(self, image: Tensor | None, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """Return FLUX.1-Fill's extra channels: latents of the kept part and the mask, (N, C + scale², h, w)."""
        scale = self.vae_scale_factor
        if image is None:
            image = torch.zeros(1, 3, shape[2] * scale, shape[3] * scale)
        mask = torch.ones_like(image[:, :1]) if mask is None else (mask > 0).to(image)
        kept = self.encode(image * (1 - mask))
        return torch.cat([kept, F.pixel_unshuffle(mask.to(kept), scale)], dim=1)


def is_fill(pipeline: FluxPipeline) -> bool:
    """Return whether the base is FLUX.1-Fill, whose transformer also reads the image and the mask."""
    return pipeline.transformer.config.in_channels > 4 * pipeline.vae.config.latent_channels


def _count(latents: Tensor | None, generator: Any, prompt: Any, embeds: Tensor | None) -> int:
    if latents is not None:
        return len(latents)
    if isinstance(generator, list):
        return len(generator)
    return len(prompt) if isinstance(prompt, list | tuple) else len(embeds) if embeds is not None else 1


def _check_shape(name: str, x: Tensor | None, shape: tuple[int, ...], count: tuple[int, ...] = (1,)) -> None:
    """Raise PanoramaError unless x is None or has this shape, or the same with the batch size in `count`."""
    if x is not None and tuple(x.shape) not in (shape, (*count, *shape[1:])):
        raise PanoramaError(f"The {name} is {tuple(x.shape)} instead of {shape}.")


def _pad(x: Tensor, columns: int) -> Tensor:
    """Pad latents (N, C, h, w) circularly to (N, C, h, w + 2 · columns)."""
    return F.pad(x, (columns, columns, 0, 0), mode="circular") if columns else x


def _crop(x: Tensor, columns: int) -> Tensor:
    """Undo `_pad`."""
    return x[..., columns : x.shape[-1] - columns]
