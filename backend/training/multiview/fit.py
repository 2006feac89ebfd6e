"""Train the two stages of the multi-view starter: the VAE, then U-Net and adapter with the frozen VAE.

Objects are rendered while it trains: a pool of them on the device, of which a few are replaced at each step. Both
stages resume from their checkpoints. Computation is in bfloat16 on CUDA, and in float32 on the CPU.
"""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from ...pipelines.layers.snr_shift import shifted_betas
from .. import checkpoint, losses, output
from ..muon import Muon
from ..precision import autocast
from . import architecture, model
from .model import Views
from .render import Renderer, Sample

#: First seeds of training objects; those below are for evaluation.
FIRST_SEED = 1_000_000
#: Share of objects whose reference picture is hidden, for guidance.
_HIDDEN = 0.1
_WARM_UP = 50


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    #: Folder of the checkpoints.
    folder: Path
    device: torch.device
    #: Size of the views in pixels, and of the crops of the first stage.
    size: int
    crop: int
    #: Objects per step of the second stage; pictures per step of the first.
    batch: int
    vae_batch: int
    vae_steps: int
    views_steps: int
    #: Objects in the pool, and how many of them are new at each step.
    pool: int
    fresh: int
    #: Time limit of both stages, and interval of checkpoints.
    minutes: float
    every_minutes: float
    #: Whether kernels are compiled.
    compiled: bool
    #: Whether objects are simpler, and rendered in closed form.
    exact: bool


class Pool:
    """Rendered objects on a device, in half precision."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._renderer = Renderer(options.device, compiled=options.compiled, exact=options.exact)
        self._seed, self._next = FIRST_SEED, 0
        self._views, self._control, self._reference = (
            torch.empty(options.pool, *shape, options.size, options.size, dtype=dtype, device=options.device)
            for shape, dtype in (((6, 3), torch.uint8), ((6, 6), torch.float16), ((3,), torch.uint8))
        )
        for _ in range(options.pool // options.fresh):
            self.refresh()

    def refresh(self) -> None:
        """Replace the oldest objects."""
        count = self._options.fresh
        made = self._renderer.render(count, self._seed, self._options.size)
        at = slice(self._next, self._next + count)
        self._views[at], self._control[at] = _bytes(made.views), made.control.half()
        self._reference[at] = _bytes(made.reference)
        self._seed, self._next = self._seed + count, (self._next + count) % (self._options.pool // count * count)

    def batch(self, count: int, generator: torch.Generator) -> Sample:
        """Return `count` random objects with their colours changed."""
        chosen = torch.randint(self._next or len(self._views), (count,), generator=generator, device=self._views.device)
        views, reference = self._views[chosen].float() / 255, self._reference[chosen].float() / 255
        control = self._control[chosen].float()
        order = torch.rand(count, 3, generator=generator, device=views.device).argsort(-1)
        gamma = 2 ** (torch.rand(count, 3, 1, 1, generator=generator, device=views.device) - 0.5)
        mask = object_mask(control)
        index = torch.arange(count, device=views.device)[:, None]
        views = torch.where(mask > 0, views[index, :, order].transpose(1, 2) ** gamma[:, None], views)
        # The picture's outline is mixed with grey, which stays what it is.
        reference = reference[index, order]
        reference = reference ** torch.where((reference - 128 / 255).abs().amax(1, keepdim=True) < 0.01, 1.0, gamma)
        return Sample(views, control, reference)


def object_mask(control: Tensor) -> Tensor:
    """Return where control images (…, 6, H, W) show the object, (…, 1, H, W) in {0, 1}: there are normals."""
    return ((control[..., 3:, :, :] - 0.5).abs().amax(-3, keepdim=True) > 0.01).float()


def _bytes(picture: Tensor) -> Tensor:
    return (picture * 255 + 0.5).byte()


def train(options: Options) -> None:
    """Train both stages, resuming each; return when they are complete or the time limit is reached."""
    until = time.monotonic() + options.minutes * 60
    began = time.monotonic()
    pool = Pool(options)
    _log(f"{options.pool} objects rendered in {time.monotonic() - began:.0f} s on {options.device}")
    if train_vae(options, pool, until):
        train_views(options, pool, until)


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _loop(
    options: Options, pool: Pool, name: str, module: nn.Module, optimizer: Muon, steps: int, rate: float, until: float,
    step_loss: Callable[[torch.Generator], dict[str, Tensor]],
) -> bool:  # fmt: skip
    """Train up to `steps`, or the time limit; `step_loss` calls backward and returns figures to print.

    Return whether all steps are complete.
    """
    path = options.folder / f"{name}.safetensors"
    average = checkpoint.Average(module, 0.998)
    step = checkpoint.load(path, module, average, optimizer)
    _log(f"{name}: from step {step} of {steps}")
    saved, counted, history = time.monotonic(), 0, dict[str, list[Tensor]]()
    while step < steps and time.monotonic() < until:
        for group in optimizer.param_groups:
            # Linear decay to zero (Bergsma et al., arXiv 2502.15938)
            group["lr"] = rate * min((step + 1) / _WARM_UP, 1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        figures = step_loss(torch.Generator(options.device).manual_seed(step))
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        pool.refresh()
        step, counted = step + 1, counted + 1
        average.update(module, step)
        for key, value in figures.items():
            history.setdefault(key, []).append(value)
        if step == steps or time.monotonic() > min(until, saved + options.every_minutes * 60):
            means = " ".join(f"{key} {torch.stack(values).mean():.4f}" for key, values in history.items())
            _log(f"{name} {step}: {means} ({(time.monotonic() - saved) / counted:.3f} s/step)")
            checkpoint.save(path, step, module, average, optimizer)
            saved, counted, history = time.monotonic(), 0, {}
    return step >= steps


def train_vae(options: Options, pool: Pool, until: float) -> bool:
    """Train stage 1 on crops of views and reference pictures, with L1, edge and weak KL losses."""
    vae = architecture.create_vae().to(options.device)

    def step_loss(generator: torch.Generator) -> dict[str, Tensor]:
        # Half of the crops are of reference pictures, which are lit.
        half = options.vae_batch // 2
        drawn = pool.batch(half, generator)
        of = torch.randint(6, (half,), generator=generator, device=options.device)
        pictures = torch.cat([drawn.reference, drawn.views[torch.arange(half, device=options.device), of]])
        y, x = torch.randint(options.size - options.crop + 1, (2,), generator=generator, device=options.device).tolist()
        wanted = pictures[..., y : y + options.crop, x : x + options.crop] * 2 - 1
        return losses.vae_loss(vae, wanted)

    return _loop(options, pool, "vae", vae, Muon(vae), options.vae_steps, 2e-3, until, step_loss)


@torch.no_grad()
def load_vae(folder: Path, drawn: Sample | None, device: torch.device) -> AutoencoderKL:
    """Load the averaged VAE of stage 1, frozen; its latents of the views drawn get a standard deviation of 1."""
    vae = architecture.create_vae().to(device)
    average = checkpoint.Average(vae, 0)
    if checkpoint.load(folder / "vae.safetensors", vae, average, Muon(vae)) == 0:
        raise FileNotFoundError(folder / "vae.safetensors")
    vae.load_state_dict(average.weights)
    vae.requires_grad_(False).eval()
    if drawn is not None:
        latents = vae.encode(drawn.views.flatten(0, 1) * 2 - 1).latent_dist.mode()
        vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return vae


def train_views(options: Options, pool: Pool, until: float) -> bool:
    """Train stage 2: v of noisy latents of six views, with the pipeline's schedule."""
    seen = pool.batch(min(16, options.pool), torch.Generator(options.device).manual_seed(0))
    vae = load_vae(options.folder, seen, options.device)
    vae.save_config(options.folder / "vae_config")  # with the scaling factor, for `export`
    scaling = vae.config.scaling_factor
    views = Views().to(options.device)
    base = DDPMScheduler.from_config(architecture.SCHEDULER)
    kept = torch.cumprod(1 - shifted_betas(base.alphas_cumprod), 0).to(options.device)
    adam = [
        name for name, _ in views.named_parameters() if name.startswith(("unet.conv_in", "unet.conv_out", "prompts"))
    ]
    optimizer = Muon(views, adam)

    def step_loss(generator: torch.Generator) -> dict[str, Tensor]:
        drawn = pool.batch(options.batch, generator)
        device, count = options.device, options.batch
        with autocast(device):
            with torch.no_grad():
                pictures = torch.cat([drawn.views.flatten(0, 1), drawn.reference]) * 2 - 1
                latents = vae.encode(pictures).latent_dist.mode().float() * scaling
            clean, reference = latents[: 6 * count], latents[6 * count :]
            timesteps = torch.randint(1000, (count,), generator=generator, device=device)
            alpha = kept[timesteps].repeat_interleave(6)[:, None, None, None]
            noise = torch.randn(clean.shape, generator=generator, device=device)
            shown = torch.rand(count, generator=generator, device=device) >= _HIDDEN
            predicted = model.predict(
                views, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, timesteps,
                drawn.control.flatten(0, 1), reference, shown,
            )  # fmt: skip
        wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        loss = model.loss(predicted, wanted, object_mask(drawn.control).flatten(0, 1))
        loss.backward()
        return {"loss": loss.detach()}

    return _loop(options, pool, "views", views, optimizer, options.views_steps, 2e-3, until, step_loss)


def export(checkpoints: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Write the model's folder from the checkpoints. Raise FileNotFoundError if one is missing.

    Existing files are replaced only if `overwrite` is set. Raise OutputError.
    """
    vae = load_vae(checkpoints, None, torch.device("cpu"))
    scaling = AutoencoderKL.load_config(checkpoints / "vae_config")["scaling_factor"]
    vae.register_to_config(scaling_factor=scaling)
    views = Views()
    average = checkpoint.Average(views, 0)
    if checkpoint.load(checkpoints / "views.safetensors", views, average, Muon(views)) == 0:
        raise FileNotFoundError(checkpoints / "views.safetensors")
    views.load_state_dict(average.weights)
    with output.folder(folder, overwrite=overwrite) as draft:
        architecture.save(draft, vae, *views.parts(), views.prompts)
