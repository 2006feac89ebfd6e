"""Base class of the panorama pipelines: loading, prompts, LoRAs, and the scale of the VAE's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from ...shared.protocol.errors import InputError, SettingError, WeightsError
from ..models import lora, residency
from ..models.links import Link
from .layers import circular_padding, tiling
from .layers.checks import check_values
from .safetensors_only import SafetensorsOnly

#: Side and overlap, in latents, of the tiles in which the VAE processes more than MAX_WHOLE latents.
VAE_TILE, VAE_OVERLAP = 128, 32
#: Maximum number of latents that the VAE processes at once: 2048 × 1024 pixels.
MAX_WHOLE = 256 * 128


def latents_at_once(height: int, width: int) -> int:
    """Return how many latents the VAE processes at once, of latents (N, C, height, width)."""
    return height * width if height * width <= MAX_WHOLE else min(height, VAE_TILE) * VAE_TILE


class PanoramaPipeline(SafetensorsOnly, FluxPipeline):
    """A FluxPipeline whose text encoders may be absent (None), and that loads safetensors only."""

    _optional_components: ClassVar = [
        *FluxPipeline._optional_components, "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2",
    ]  # fmt: skip

    def stream(self, link: Link, limit: int | None = None, *, resident: bool = True) -> None:
        """Leave the transformer's blocks in main memory, and compute on the link's device.

        While a panorama is denoised, as many blocks as fit stay there, or as fit into `limit` bytes; with `resident`
        False none does. The others arrive in turn. All other weights move to the device now.
        """
        residency.attach(self.transformer, residency.Streaming(link, limit, resident))
        for name, module in self.transformer.named_children():
            if name not in ("transformer_blocks", "single_transformer_blocks", "norm_out"):
                module.to(link.device)
        self.vae.to(link.device)  # pyright: ignore[reportArgumentType]

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raise SettingError: the blocks are called one by one, which the hook on the whole transformer doesn't see."""
        raise SettingError("diffusers' offloading does not see the blocks of this pipeline.", "Use stream().")

    def enable_sequential_cpu_offload(self, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raise SettingError: `stream` moves the same weights once a step, beside the computation."""
        raise SettingError("diffusers' offloading does not see the blocks of this pipeline.", "Use stream().")

    @property
    def residency(self) -> residency.Residency:
        """Where the transformer's blocks are."""
        return residency.of(self.transformer, self._execution_device)

    @property
    def _execution_device(self) -> torch.device:
        attached = residency.of(self.transformer, torch.device("cpu"))
        if isinstance(attached, residency.Streaming):
            return attached.device
        # diffusers' own, and the VAE's `device`, look for hooks in every module, at each call: a tenth of the starter's
        # time.
        return next(self.vae.parameters()).device  # pyright: ignore[reportAttributeAccessIssue]

    def load_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        source: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        token: str | None = None,
    ) -> None:
        """Add a LoRA, in any naming that diffusers knows, from a file, a folder, a hub repository or a state dict.

        Raise AdapterError, naming keys, where any of it does not fit this model: diffusers would leave that out.
        """
        lora.load(self, source, adapter_name=adapter_name, weight_name=weight_name, token=token)

    #: See `compute_dtype`.
    _compute_dtype: torch.dtype | None = None

    @property
    def compute_dtype(self) -> torch.dtype:
        """The precision of the transformer's inputs, products and adapters: as set, or that of all its weights.

        It must be set where the weights differ, as in a quantised base. Raise SettingError where it is not.
        """
        if self._compute_dtype is not None:
            return self._compute_dtype
        found = {parameter.dtype for parameter in self.transformer.parameters()}
        if len(found) != 1 or not next(iter(found)).is_floating_point:
            raise SettingError(
                f"The transformer's weights are {', '.join(sorted(map(str, found)))}: no single precision.",
                "Set the pipeline's compute_dtype.",
            )
        return found.pop()

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self._compute_dtype = dtype

    def _embed_prompt(
        self, prompt: str | list[str] | None, embeds: Tensor | None, pooled: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the prompts, given or computed: (N, tokens, dim) and (N, dim).

        Raise SettingError, WeightsError, and InputError for embeddings of another shape, or with NaN.
        """
        if (prompt is None) == (embeds is None) or (embeds is None) != (pooled is None):
            raise SettingError("Give either a prompt, or both prompt_embeds and pooled_prompt_embeds.")
        if embeds is None or pooled is None:
            if self.text_encoder is None or self.text_encoder_2 is None:
                raise WeightsError(
                    "The prompt can't be encoded: the text encoders are not loaded.",
                    "Load them, or give prompt_embeds and pooled_prompt_embeds.",
                )
            embeds, pooled, _ = self.encode_prompt(prompt)  # pyright: ignore[reportArgumentType]
        assert embeds is not None
        assert pooled is not None
        dims = self.transformer.config.joint_attention_dim, self.transformer.config.pooled_projection_dim
        if (embeds.ndim, embeds.shape[-1]) != (3, dims[0]) or (pooled.ndim, pooled.shape[-1]) != (2, dims[1]):
            raise InputError(
                f"The embeddings are {tuple(embeds.shape)} and {tuple(pooled.shape)} instead of "
                f"(N, tokens, {dims[0]}) and (N, {dims[1]})."
            )
        check_values("embeddings", embeds)
        check_values("pooled embeddings", pooled)
        return embeds, pooled

    @torch.no_grad()
    def decode_picture(self, latents: Tensor) -> Tensor:
        """Decode latents (N, C, h, w) of a perspective picture into (N, 3, H, W) float32 in [0, 1]."""
        return (self._vae_decode(self._denormalize(latents)) / 2 + 0.5).clamp(0, 1)

    def _encode_seamless(self, image: Tensor) -> Tensor:
        """Encode as `_vae_encode`, across the seam: circular, or in tiles that wrap around."""
        scale, image = self.vae_scale_factor, image.to(self._execution_device)
        if image.shape[-2] * image.shape[-1] > MAX_WHOLE * scale**2:
            with circular_padding.in_bands(self.vae):
                latents = tiling.blend(self._vae_encode, image, (VAE_TILE, VAE_TILE), VAE_OVERLAP, unit_in=scale)
        else:
            with circular_padding.circular(self.vae):
                latents = self._vae_encode(image)
        return latents

    def _decode_seamless(self, latents: Tensor) -> Tensor:
        """Decode as `_vae_decode`, across the seam: circular, or in tiles that wrap around."""
        latents = latents.to(self._execution_device)
        if latents.shape[-2] * latents.shape[-1] > MAX_WHOLE:
            tile, scale = (VAE_TILE, VAE_TILE), self.vae_scale_factor
            with circular_padding.in_bands(self.vae):
                return tiling.blend(self._vae_decode, latents, tile, VAE_OVERLAP, unit_out=scale)
        with circular_padding.circular(self.vae):
            return self._vae_decode(latents)

    def _vae_encode(self, image: Tensor) -> Tensor:
        """Encode (N, 3, H, W) in [-1, 1] as the posterior's mode, (N, C, h, w) float32, in the VAE's own scale."""
        posterior = self.vae.encode(image.to(self._execution_device, self.vae.dtype)).latent_dist  # pyright: ignore
        return posterior.mode().float()

    def _vae_decode(self, latents: Tensor) -> Tensor:
        """Decode (N, C, h, w) latents in the VAE's own scale into (N, 3, H, W) float32, about [-1, 1]."""
        latents = latents.to(self._execution_device, self.vae.dtype)
        return self.vae.decode(latents, return_dict=False)[0].float()  # pyright: ignore

    def _normalize(self, latents: Tensor) -> Tensor:
        """Scale the VAE's latents to those of the transformer."""
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def _denormalize(self, latents: Tensor) -> Tensor:
        """Undo `_normalize`."""
        return latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
