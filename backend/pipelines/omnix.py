"""OmniX: FLUX with one adapter per stream turns a panorama (condition streams) into a map of it (target stream).

Paper: arXiv 2510.26800. Latents are (1, C, h, w) with h = H / scale, w = W / scale; images (1, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...shared.imaging import sphere
from ...shared.protocol.errors import AdapterError, InputError, PanoramaError, SettingError
from ..models.flux import stream_adapters
from .layers import circular_padding
from .layers.checks import check_finite, check_numbers, check_steps, check_values
from .layers.denoiser import Batch, denoiser
from .layers.latents import image_ids, pack, unpack
from .layers.shared_attention import Layers
from .panorama_pipeline import PanoramaPipeline


class Task(NamedTuple):
    """The condition streams, whose latents stay clean, and the target stream, which starts from noise."""

    conditions: tuple[str, ...]
    target: str

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams, in the order of the transformer's batch."""
        return (*self.conditions, self.target)


TASKS: dict[str, Task] = {
    "rgb_to_depth": Task(("rgb",), "depth"),
    "rgb_to_normal": Task(("rgb",), "normal"),
    "rgb_camray_to_normal": Task(("rgb", "camray"), "normal"),
    "rgb_to_albedo": Task(("rgb",), "albedo"),
    "rgb_to_pbr": Task(("rgb",), "pbr"),
    "rgb_to_semantic": Task(("rgb",), "semantic"),
    "image_to_pano": Task(("masked_rgb",), "filled_rgb"),
}

#: Trigger phrase at the beginning of every prompt; perception's prompt is the trigger alone.
TRIGGER = "[EQUIRECTANGULAR]"


class OmniXPipeline(PanoramaPipeline):
    """FLUX with stream adapters. `from_pretrained` reads safetensors only; text encoders may be absent (None).

    Between calls the transformer is plain FLUX: adapters are applied only while a task runs.
    """

    #: Rows of tokens that positions are scaled to, whatever the panorama's size (position interpolation, Chen et al.,
    #: arXiv 2306.15595). None: one position per token, as in the reference.
    position_rows: int | None = None

    @cached_property
    def resident(self) -> dict[str, Layers]:
        """The loaded adapters by task, in CPU memory; they are copied to the device while a task runs."""
        return {}

    def load_adapters(self, source: str | Path, task: str, *, token: str | None = None) -> None:
        """Load the adapters of all streams of `task`, from a folder or a hub repository.

        Raise SettingError for an unknown task, AdapterError for an adapter that is missing or does not fit.
        """
        shapes = stream_adapters.targets(self.transformer.config)
        found = [stream_adapters.find(source, task, stream, token=token) for stream in _task(task).streams]
        self.resident[task] = stream_adapters.stack(
            [stream_adapters.read(file, shapes) for file in found], self.compute_dtype
        )

    @torch.no_grad()
    def encode(self, image: Tensor, circular: bool = True) -> Tensor:
        """Encode an image (1, 3, H, W) in [-1, 1] into (1, C, h, w) float32 latents, the posterior's mode.

        With `circular` it is read across the seam; otherwise that is an edge, as in the reference.
        """
        return self._normalize(self._encode_seamless(image) if circular else self._vae_encode(image))

    @torch.no_grad()
    def decode(self, latents: Tensor, circular: bool = True) -> Tensor:
        """Decode (1, C, h, w) latents into a seamless image (1, 3, H, W) float32 in [0, 1].

        With `circular` it is read across the seam; otherwise the decoded edges are blended, as in the reference.
        """
        latents = self._denormalize(latents)
        if circular:
            image = self._decode_seamless(latents)
        else:
            image = circular_padding.decode_blended(self._vae_decode, latents, self.vae_scale_factor)
        return (image / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        task: str | Sequence[str],
        conditions: Mapping[str, Tensor] | None = None,
        prompt: str | None = None,
        *,
        condition_latents: Mapping[str, Tensor] | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        latents: Tensor | None = None,
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
        generator: torch.Generator | None = None,
        output_type: str = "pt",
        circular_encode: bool = True,
        cache: float = 0.0,
        callback_on_step_end: Callable[[OmniXPipeline, int, Tensor, dict[str, Tensor]], Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> FluxPipelineOutput:
        """Run one task, or N tasks that share their conditions; `.images` are the targets alone.

        Several tasks use the weights once a step, block by block, with the results that each has alone.

        Args:
            task: one of `TASKS`, or several, each once; their adapters must be loaded.
            conditions: condition stream → (1, 3, H, W) image in [-1, 1]; all that any of the tasks has. `camray` is
                computed by default.
            prompt: for `image_to_pano`; perception has none. The trigger is prepended.
            condition_latents: condition stream → its latents from `encode`, for a condition that several tasks share.
            prompt_embeds: (1, tokens, joint_attention_dim), instead of `prompt`; with `pooled_prompt_embeds`.
            pooled_prompt_embeds: (1, pooled_projection_dim).
            latents: (1, C, h, w) initial noise of every target, or (N, C, h, w); sampled from `generator` by default,
                for one task after the other.
            output_type: "pt" for (N, 3, H, W) in [0, 1], "latent" for (N, C, h, w), both float32.
            circular_encode: False treats the panorama's ends as the reference does: encoded as edges, and blended after
                decoding. By default the VAE is circular.
            cache: threshold of the first-block cache, an approximation (layers/first_block_cache.py); 0: none.
            callback_on_step_end: called as `(pipe, step, timestep, {"latents", "denoised"})` after each step. `latents`
                are the targets (N, C, h, w + 6), after blending; `denoised` the predicted clean latents (N, C, h, w),
                of which `decode` takes each. Raise in it to stop; its return value is ignored.
            check: called many times in a step; raise in it to stop.

        Raises:
            SettingError: an unknown or repeated task or output type, a number out of range, or conditions that aren't
                the task's.
            PanoramaError: a picture or noise of the wrong shape.
            InputError: embeddings of the wrong shape, and NaN in what is given.
            NumericsError: NaN or infinite values, naming the step and the precision.
            AdapterError: the task's adapters are not loaded.
            WeightsError: a prompt must be encoded but the text encoders are absent.
        """
        # 1. Check the inputs
        tasks, images, encoded = _tasks(task), dict(conditions or {}), dict(condition_latents or {})
        for name in tasks:
            if name not in self.resident:
                raise AdapterError(f"The adapters of {name} are not loaded.", "Call load_adapters for this task first.")
        if output_type not in ("pt", "latent"):
            raise SettingError(f"There is no output type {output_type!r}.", 'Use "pt" or "latent".')
        check_steps(num_inference_steps, self.scheduler.config.num_train_timesteps)
        check_numbers(guidance_scale=guidance_scale, cache=cache)
        height, width = self._size(tasks, images, encoded)
        if any("camray" in TASKS[name].conditions for name in tasks) and "camray" not in images | encoded:
            images["camray"] = camera_rays(height, width)
        device, dtype = self._execution_device, self.compute_dtype

        # 2. Encode the prompt and the conditions; the latents of these streams stay clean
        if prompt is not None or (prompt_embeds is None and pooled_prompt_embeds is None):
            prompt = f"{TRIGGER} {prompt or ''}".strip()
        prompt_embeds, pooled_prompt_embeds = self._embed_prompt(prompt, prompt_embeds, pooled_prompt_embeds)
        if len(prompt_embeds) != 1 or len(pooled_prompt_embeds) != 1:
            raise InputError(f"There are {len(prompt_embeds)} prompts.", "All tasks have the same one.")
        encoded |= {name: self.encode(image, circular_encode) for name, image in images.items()}
        tokens = {
            name: pack(circular_padding.extend(latents.to(device, torch.float32))).to(dtype)  # [1, T, 4C]
            for name, latents in encoded.items()
        }
        clean = [torch.cat([tokens[stream] for stream in TASKS[name].conditions]) for name in tasks]  # [S - 1, T, 4C]

        # 3. Prepare the targets
        scale, channels = self.vae_scale_factor, self.transformer.config.in_channels // 4
        shape = (1, channels, height // scale, width // scale)
        if latents is None:
            noise = [randn_tensor(shape, generator=generator, device=device, dtype=torch.float32) for _ in tasks]
            latents = torch.cat(noise)
        elif tuple(latents.shape) not in (shape, (len(tasks), *shape[1:])):
            raise PanoramaError(f"The noise is {tuple(latents.shape)} instead of {shape}.")
        latents = latents.to(device, torch.float32).expand(len(tasks), -1, -1, -1)
        target = circular_padding.extend(latents)  # [N, C, h, w + 6]

        # 4. Prepare the inputs shared by all streams: text, positions (continued past the right edge), timesteps
        rows, columns = target.shape[-2] // 2, target.shape[-1] // 2
        embeds, pooled = prompt_embeds.to(device, dtype), pooled_prompt_embeds.to(device, dtype)
        repeated = {count: pooled.expand(count, -1) for count in {len(TASKS[name].streams) for name in tasks}}
        batches = [Batch(embeds, repeated[len(TASKS[name].streams)], self.resident[name]) for name in tasks]
        scheduler = self.scheduler.config
        mu = calculate_shift(
            rows * columns,
            scheduler.base_image_seq_len,
            scheduler.max_image_seq_len,
            scheduler.base_shift,
            scheduler.max_shift,
        )
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        self.scheduler.set_timesteps(sigmas=sigmas, mu=mu, device=device)
        self.scheduler.set_begin_index(0)
        timesteps = self.scheduler.timesteps

        # 5. Denoise the targets, each together with its clean conditions
        with denoiser(
            self.transformer,
            batches,
            timesteps,
            guidance_scale,
            self._positions(rows, columns, device),
            dtype=dtype,
            residency=self.residency,
            check=check,
            cache=cache,
        ) as predict:
            for i, t in enumerate(timesteps):
                noisy = pack(target).to(dtype)[:, None]  # [N, 1, T, 4C]
                inputs = [torch.cat(streams) for streams in zip(clean, noisy, strict=True)]  # [S, T, 4C] each
                velocity = torch.cat(predict(i, inputs))  # [N, T, 4C]
                velocity = unpack(velocity.float(), rows)  # [N, C, h, w + 6]
                denoised = target - self.scheduler.sigmas[i] * velocity
                target = circular_padding.blend(self.scheduler.step(velocity, t, target, return_dict=False)[0])
                check_finite(target, f"step {i + 1} of {num_inference_steps}", dtype)
                if callback_on_step_end is not None:
                    callback_on_step_end(self, i, t, {"latents": target, "denoised": circular_padding.close(denoised)})

        # 6. Close the panoramas and decode them, one by one, which needs less memory
        target = circular_padding.close(target)  # [N, C, h, w]
        if output_type != "latent":
            target = torch.cat([self.decode(latents, circular_encode) for latents in target.split(1)])
        self.maybe_free_model_hooks()
        return FluxPipelineOutput(images=target)  # pyright: ignore[reportArgumentType]

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return the position ids of the tokens, (T, 3)."""
        ids = image_ids(rows, columns, device)
        return ids if self.position_rows is None else ids * (self.position_rows / rows)

    def _size(
        self, tasks: Sequence[str], images: Mapping[str, Tensor], encoded: Mapping[str, Tensor]
    ) -> tuple[int, int]:
        """Return the common height and width of all conditions in pixels. Raise SettingError, PanoramaError."""
        wanted, given = {stream for name in tasks for stream in TASKS[name].conditions}, [*images, *encoded]
        if len(set(given)) != len(given) or not wanted - {"camray"} <= set(given) <= wanted:
            raise SettingError(
                f"{' and '.join(tasks)} takes the conditions {', '.join(sorted(wanted))}, each once.",
                f"Given: {', '.join(given) or 'none'}.",
            )
        sizes: dict[str, tuple[int, int]] = {}
        scale, channels = self.vae_scale_factor, self.transformer.config.in_channels // 4
        for tensors, expected, factor in ((images, 3, 1), (encoded, channels, scale)):
            for name, tensor in tensors.items():
                if tensor.ndim != 4 or tensor.shape[:2] != (1, expected):
                    raise PanoramaError(
                        f"The condition {name} is {tuple(tensor.shape)} instead of (1, {expected}, height, width)."
                    )
                check_values(f"condition {name}", tensor)
                sizes[name] = (tensor.shape[2] * factor, tensor.shape[3] * factor)
        if len(set(sizes.values())) > 1:
            raise PanoramaError(f"The conditions differ in size: {sizes}.")
        height, width = next(iter(sizes.values()))
        narrowest = circular_padding.EXTENSION * scale
        if height % (2 * scale) or width % (2 * scale) or width < narrowest:
            raise PanoramaError(
                f"A panorama of {width} × {height} can't be computed.",
                f"Both sides must be multiples of {2 * scale}, and the width at least {narrowest}.",
            )
        return height, width


def camera_rays(height: int, width: int) -> Tensor:
    """Return the `camray` condition, (1, 3, H, W) float32: unit rays with X front, Y up, Z left."""
    rays = sphere.directions(height, width)[..., [0, 2, 1]]
    return torch.from_numpy(rays).permute(2, 0, 1)[None].contiguous()


def _task(name: str) -> Task:
    if name not in TASKS:
        raise SettingError(f"There is no task {name!r}.", f"The tasks are {', '.join(TASKS)}.")
    return TASKS[name]


def _tasks(names: str | Sequence[str]) -> list[str]:
    tasks = [names] if isinstance(names, str) else list(names)
    for name in tasks:
        _task(name)
    if not tasks or len(set(tasks)) < len(tasks):
        raise SettingError(f"The tasks are {', '.join(tasks) or 'none'}.", "Give at least one, each once.")
    return tasks
