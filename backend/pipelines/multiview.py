"""Multi-view diffusion: Stable Diffusion 2.1 with MV-Adapter draws several views of one object at once.

Paper: arXiv 2412.03632; reference: huanngzh/MV-Adapter, `mvadapter/pipelines`. Latents are (n, 4, h, w) for n views,
with h = H / 8; images (n, 3, H, W). The batch of the U-Net is (unconditional views, conditional views), or the latter
alone without guidance.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import safetensors.torch
import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...shared.jobs.checks import check_range
from ...shared.protocol.errors import AdapterError, InputError, SettingError, WeightsError
from ..models.sd21 import adapter
from .layers import multiview_attention
from .layers.checks import check_finite, check_numbers, check_steps, check_values
from .layers.multiview_attention import Layout, MultiViewAttnProcessor, MultiViewState
from .layers.snr_shift import shifted_betas
from .safetensors_only import SafetensorsOnly


class Task(NamedTuple):
    """How views see each other, whether there is a reference picture, and the number of views (None: any)."""

    layout: Layout
    reference: bool
    views: int | None


#: ig2mv: picture and geometry, tg2mv: text and geometry (six views: front, right, back, left, top, bottom);
#: i2mv, t2mv: picture, or text, and cameras alone.
TASKS: dict[str, Task] = {
    "ig2mv": Task("row_col", True, 6),
    "tg2mv": Task("row_col", False, 6),
    "i2mv": Task("row", True, None),
    "t2mv": Task("row", False, None),
}

SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
PROMPT = "high quality"
NEGATIVE_PROMPT = "watermark, ugly, deformed, noisy, blurry, low contrast"
#: Channels of the control images: position and normal, or the camera's ray.
_CONTROL_CHANNELS = 6
#: How far values of control images may lie outside of [0, 1].
_ROUNDING = 1e-3


class AdapterParts(NamedTuple):
    """The modules that an adapter fills, without weights."""

    #: By name of the attention module.
    processors: dict[str, MultiViewAttnProcessor]
    encoder: T2IAdapter

    @property
    def shapes(self) -> adapter.Shapes:
        """Name → shape of all tensors of the adapter's file."""
        shapes = adapter.shapes_of(self.encoder)
        for name, processor in self.processors.items():
            shapes |= adapter.shapes_of(processor, f"{name}.processor.")
        return shapes


def adapter_parts(unet: Any, task: str, downscale_factor: int) -> AdapterParts:
    """Create what an adapter of `task` fills in `unet`, whose latents are smaller by `downscale_factor`.

    Raise SettingError for an unknown task, AdapterError for a U-Net that control images can't be added to, and for
    Stable Diffusion 1's.
    """
    chosen = _task(task)
    # diffusers adds the features to blocks without attention after they have halved the size, where they don't fit.
    plain = [name for name in unet.config.down_block_types[:-1] if name != "CrossAttnDownBlock2D"]
    if plain:
        raise AdapterError(
            f"The U-Net has a {plain[0]}: MV-Adapter needs a CrossAttnDownBlock2D at each level but the last.",
            "Use Stable Diffusion 2.1-base as the model.",
        )
    if not unet.config.use_linear_projection:  # its self-attentions have the shapes of 2.1's
        raise AdapterError(
            "The U-Net is Stable Diffusion 1's: its transformers have convolutions (proj_in).",
            "Use Stable Diffusion 2.1-base as the model.",
        )
    with torch.device("meta"):
        encoder = T2IAdapter(
            in_channels=_CONTROL_CHANNELS,
            channels=list(unet.config.block_out_channels),
            num_res_blocks=2,
            downscale_factor=downscale_factor,
            adapter_type="full_adapter",
        )
    return AdapterParts(multiview_attention.processors(unet, chosen.layout, chosen.reference), encoder)


def fill_adapter(unet: Any, file: Path, task: str, downscale_factor: int) -> T2IAdapter:
    """Fill the self-attentions of `unet` with an adapter's file; return its encoder of control images, filled.

    Raise as `adapter_parts`, and AdapterError for a file that has other tensors.
    """
    parts = adapter_parts(unet, task, downscale_factor)
    tensors = adapter.read(file, parts.shapes)
    device, dtype = unet.device, unet.dtype  # diffusers searches all parameters for each of these
    tensors = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    for name, processor in parts.processors.items():
        prefix = f"{name}.processor."
        own = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        processor.load_state_dict(own, assign=True)
    parts.encoder.load_state_dict(tensors, assign=True)
    multiview_attention.install(unet, parts.processors)
    return parts.encoder.eval()


class MultiViewPipeline(SafetensorsOnly, StableDiffusionPipeline):
    """Stable Diffusion with an MV-Adapter. `from_pretrained` reads safetensors only; the text encoder may be absent.

    `cond_encoder` encodes the control images; `load_adapter` creates it.
    """

    model_cpu_offload_seq = "cond_encoder->text_encoder->image_encoder->unet->vae"
    _optional_components: ClassVar = [
        *StableDiffusionPipeline._optional_components, "text_encoder", "tokenizer", "cond_encoder",
    ]  # fmt: skip

    # diffusers declares the attributes of a config, and a scheduler's result, as those of a dict and a tuple.
    unet: Any
    vae: Any
    cond_encoder: T2IAdapter | None

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: Any,
        tokenizer: Any,
        unet: UNet2DConditionModel,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        cond_encoder: T2IAdapter | None = None,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self.register_modules(cond_encoder=cond_encoder)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        use_safetensors: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Load the pipeline; of a local folder with an adapter for one task (`save_pretrained`), that too."""
        pipe = super().from_pretrained(pretrained_model_name_or_path, use_safetensors=use_safetensors, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        tasks = [task for task in TASKS if (folder / adapter.filename(task)).is_file()]
        if len(tasks) == 1:
            pipe.load_adapter(folder, tasks[0])
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the base model as a diffusers folder, and in it the loaded adapter as a file of the hub's layout."""
        task, encoder = self.task, self.cond_encoder
        if task is None or encoder is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        with multiview_attention.removed(self.unet) as processors:
            self.register_modules(cond_encoder=None)
            try:
                super().save_pretrained(save_directory, *args, **kwargs)
            finally:
                self.register_modules(cond_encoder=encoder)
        tensors = encoder.state_dict()
        for processor in processors:
            tensors |= {f"{processor.name}.processor.{name}": x for name, x in processor.state_dict().items()}
        safetensors.torch.save_file(tensors, Path(save_directory) / adapter.filename(task), {"format": "pt"})

    @property
    def task(self) -> str | None:
        """The task of the loaded adapter; None without one, or where other processors have replaced its own."""
        found = multiview_attention.installed(self.unet)
        if self.cond_encoder is None or found is None:
            return None
        return next(name for name, task in TASKS.items() if (task.layout, task.reference) == found)

    def load_adapter(self, source: str | Path, task: str, *, token: str | None = None) -> None:
        """Load the adapter of `task` from a file, a folder or a hub repository, instead of the one loaded before.

        Load it before any offloading is enabled. Raise SettingError for an unknown task, AdapterError for an adapter
        that is missing, or has other tensors than this model and task need, and for a U-Net that can't have one.
        """
        if any(hasattr(module, "_hf_hook") for module in self.unet.modules()):
            raise SettingError("The model is offloaded already.", "Load the adapter before enabling offloading.")
        _task(task)
        file = adapter.find(source, task, token=token)
        self.register_modules(cond_encoder=fill_adapter(self.unet, file, task, self.vae_scale_factor))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Encode images (N, 3, H, W) in [-1, 1] into (N, 4, h, w) float32 latents, the posterior's mode."""
        posterior = self.vae.encode(image.to(self._execution_device, self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (N, 4, h, w) latents into images (N, 3, H, W) float32 in [0, 1], one after the other.

        Raise NumericsError for NaN or infinite values.
        """
        latents = (latents / self.vae.config.scaling_factor).to(self._execution_device, self.vae.dtype)
        images = torch.cat([self.vae.decode(one[None], return_dict=False)[0].float() for one in latents])
        check_finite(images, "decoding", self.vae.dtype)
        return (images / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        task: str,
        control: Tensor,
        reference: Tensor | None = None,
        prompt: str | None = None,
        *,
        reference_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt: str | None = None,
        negative_prompt_embeds: Tensor | None = None,
        latents: Tensor | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        mv_scale: float = 1.0,
        reference_scale: float = 1.0,
        control_scale: float = 1.0,
        control_factor: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        scheduler: str = "ddpm",
        output_type: str = "pt",
        callback_on_step_end: Callable[[MultiViewPipeline, int, Tensor, dict[str, Tensor]], Any] | None = None,
    ) -> ImagePipelineOutput:
        """Draw the views of one object; `.images` is the views alone.

        Args:
            task: one of `TASKS`; its adapter must be loaded.
            control: (n, 6, H, W) in [0, 1], one control image per view, H = W. With geometry: position + 0.5 and
                normal / 2 + 0.5; with cameras: Plücker coordinates of the view, the same for all pixels.
            reference: (1, 3, h, w) in [-1, 1], the reference picture on grey, of any size that is a multiple of 8.
            prompt: by default `PROMPT`.
            reference_latents: (1, 4, h / 8, w / 8) from `encode`, instead of `reference`.
            prompt_embeds: (1, tokens, cross_attention_dim), instead of `prompt`.
            negative_prompt: by default `NEGATIVE_PROMPT`. Not used if `guidance_scale` is at most 1.
            negative_prompt_embeds: as `prompt_embeds`.
            latents: (n, 4, H / 8, W / 8) initial noise; sampled from `generator` by default.
            num_inference_steps: at least 1, fewer than the steps that the model was trained with (1000).
            guidance_scale: classifier-free guidance; at most 1: none, at half the cost.
            mv_scale: weight of the attention to other views.
            reference_scale: weight of the attention to the reference picture.
            control_scale: weight of the control images.
            control_factor: share of the steps, in [0, 1], from the first on, that see the control images.
            generator: one, or one for each view.
            scheduler: "ddpm" (samples noise at each step) or "ddim".
            output_type: "pt" for (n, 3, H, W) in [0, 1], "latent" for (n, 4, H / 8, W / 8), both float32.
            callback_on_step_end: called as `(pipe, step, timestep, {"latents", "denoised"})` after each step, both
                (n, 4, h, w); `denoised` are the predicted clean latents, as `decode` takes them. Raise in it to stop;
                its return value is ignored.

        Raises:
            SettingError: an unknown task, scheduler or output type, a number out of range; embeddings and prompts
                together.
            InputError: an input of the wrong shape or range, or one that the task lacks, or does not take.
            AdapterError: the adapter of the task is not loaded, or something has replaced its attention
                (`enable_attention_slicing` does).
            WeightsError: a prompt must be encoded but the text encoder is absent.
            NumericsError: NaN or infinite values, naming the step and the precision.
        """
        # 1. Check the inputs
        self._check_inputs(task, control, reference, reference_latents, generator, scheduler, output_type)
        check_steps(num_inference_steps, self.scheduler.config.num_train_timesteps - 1)  # they are counted from 1
        check_range("The control_factor", control_factor, 0, 1)
        check_numbers(
            guidance_scale=guidance_scale, mv_scale=mv_scale, reference_scale=reference_scale,
            control_scale=control_scale,
        )  # fmt: skip
        assert self.cond_encoder is not None  # checked
        views, _, height, width = control.shape
        device, dtype = self._execution_device, self.unet.dtype
        guided = guidance_scale > 1

        # 2. Encode the prompts
        positive = self._embed_prompt(prompt, PROMPT, prompt_embeds)
        embeds = positive.expand(views, -1, -1)
        if guided:
            negative = self._embed_prompt(negative_prompt, NEGATIVE_PROMPT, negative_prompt_embeds)
            if negative.shape != positive.shape:
                raise InputError(
                    f"The embeddings are {tuple(positive.shape)}, the negative ones {tuple(negative.shape)}.",
                    "Give the same number of tokens.",
                )
            embeds = torch.cat([negative.expand(views, -1, -1), embeds])  # [B, tokens, dim]

        # 3. Encode the control images, once for all steps
        features = self.cond_encoder(control.to(device, self.cond_encoder.dtype))
        features = [feature.to(dtype) * control_scale for feature in features]  # [n, channels, h / 2^i, w / 2^i]
        if guided:
            features = [torch.cat([feature] * 2) for feature in features]
        controlled_steps = int(num_inference_steps * control_factor)

        # 4. Record the reference picture's tokens: one pass over its clean latents, at timestep 0
        state = MultiViewState(mv_scale=mv_scale, reference_scale=reference_scale)
        if reference is not None:
            reference_latents = self.encode(reference)  # [1, 4, h, w]
        if reference_latents is not None:
            with multiview_attention.active(self.unet, state):
                self.unet(reference_latents.to(device, dtype), 0, positive)
        state.views = views

        # 5. Prepare the noise and its schedule
        shape = (views, self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) != shape:
            raise InputError(f"The noise is {tuple(latents.shape)} instead of {shape}.")
        noisy: Tensor = latents.to(device, torch.float32)  # [n, 4, h, w]
        sampler = self._sampler(scheduler)
        sampler.set_timesteps(num_inference_steps, device=device)

        # 6. Denoise all views together
        with multiview_attention.active(self.unet, state):
            for i, t in enumerate(sampler.timesteps):
                noise = self.unet(
                    torch.cat([noisy] * 2 if guided else [noisy]).to(dtype),  # [B, 4, h, w]
                    t,
                    embeds,
                    # The U-Net empties the list.
                    down_intrablock_additional_residuals=list(features) if i < controlled_steps else None,
                    return_dict=False,
                )[0].float()
                if guided:
                    unconditional, conditional = noise.chunk(2)
                    noise = unconditional + guidance_scale * (conditional - unconditional)  # [n, 4, h, w]
                step = sampler.step(noise, t, noisy, generator=generator)
                noisy = step.prev_sample
                check_finite(noisy, f"step {i + 1} of {num_inference_steps}", dtype)
                if callback_on_step_end is not None:
                    callback_on_step_end(self, i, t, {"latents": noisy, "denoised": step.pred_original_sample})

        # 7. Decode the views
        images = noisy
        if output_type == "pt":
            images = self.decode(noisy)  # [n, 3, H, W]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images)  # pyright: ignore[reportArgumentType]

    def _check_inputs(
        self,
        task: str,
        control: Tensor,
        reference: Tensor | None,
        reference_latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        scheduler: str,
        output_type: str,
    ) -> None:
        chosen = _task(task)
        if scheduler not in SCHEDULERS:
            raise SettingError(f"There is no scheduler {scheduler!r}.", f"Use one of {', '.join(SCHEDULERS)}.")
        if output_type not in ("pt", "latent"):
            raise SettingError(f"There is no output type {output_type!r}.", 'Use "pt" or "latent".')
        if task != self.task:
            loaded = f"that of {self.task} is" if self.task else "none is"
            raise AdapterError(f"The adapter of {task} is not loaded: {loaded}.", "Call load_adapter for this task.")
        side, channels = self.vae_scale_factor, self.unet.config.in_channels
        if control.ndim != 4 or control.shape[1] != _CONTROL_CHANNELS or control.shape[2] != control.shape[3]:
            raise InputError(f"The control images are {tuple(control.shape)} instead of (views, 6, size, size).")
        if not len(control) or control.shape[2] % side or not control.shape[2]:
            raise InputError(f"The control images are {tuple(control.shape)}.", f"The size is a multiple of {side}.")
        if chosen.views is not None and len(control) != chosen.views:
            raise InputError(f"{task} draws {chosen.views} views, but there are {len(control)} control images.")
        check_values("control images", control)
        if not -_ROUNDING <= control.min() <= control.max() <= 1 + _ROUNDING:
            raise InputError(
                f"The control images reach from {control.min():.3g} to {control.max():.3g}.", "Give values in [0, 1]."
            )
        if isinstance(generator, list) and len(generator) not in (1, len(control)):
            raise InputError(f"There are {len(generator)} generators for {len(control)} views.", "Give one for each.")
        given = [tensor for tensor in (reference, reference_latents) if tensor is not None]
        if len(given) != chosen.reference:
            wanted = "one reference picture, or its latents" if chosen.reference else "no reference picture"
            raise InputError(f"{task} takes {wanted}; {len(given)} are given.")
        for tensor, depth, factor in ((reference, 3, side), (reference_latents, channels, 1)):
            if tensor is None:
                continue
            if tensor.ndim != 4 or tensor.shape[:2] != (1, depth) or any(n % factor or not n for n in tensor.shape[2:]):
                raise InputError(
                    f"The reference picture is {tuple(tensor.shape)} instead of (1, {depth}, height, width).",
                    f"Both sides are multiples of {factor}." if factor > 1 else "",
                )
            check_values("reference picture", tensor)

    def _embed_prompt(self, prompt: str | None, default: str, embeds: Tensor | None) -> Tensor:
        """Return the embeddings of a prompt, given or computed, (1, tokens, dim)."""
        device, dtype, dim = self._execution_device, self.unet.dtype, self.unet.config.cross_attention_dim
        if embeds is None:
            if self.text_encoder is None:
                raise WeightsError(
                    "The prompt can't be encoded: the text encoder is not loaded.",
                    "Load it, or give prompt_embeds and negative_prompt_embeds.",
                )
            embeds, _ = self.encode_prompt(default if prompt is None else prompt, device, 1, False)
        elif prompt is not None:
            raise SettingError("Give either a prompt or its embeddings.")
        if embeds.ndim != 3 or embeds.shape[0] != 1 or embeds.shape[2] != dim:
            raise InputError(f"The embeddings are {tuple(embeds.shape)} instead of (1, tokens, {dim}).")
        return embeds.to(device, dtype)

    def _sampler(self, name: str) -> Any:
        """Return a DDPMScheduler or DDIMScheduler with the base model's settings, and its schedule shifted."""
        base: Any = DDPMScheduler.from_config(self.scheduler.config)
        betas = shifted_betas(base.alphas_cumprod)
        return SCHEDULERS[name].from_config(self.scheduler.config, trained_betas=betas.numpy())


def _task(name: str) -> Task:
    if name not in TASKS:
        raise SettingError(f"There is no task {name!r}.", f"The tasks are {', '.join(TASKS)}.")
    return TASKS[name]
