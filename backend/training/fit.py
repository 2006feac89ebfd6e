"""Trains the two stages: the VAE, then transformer, adapters and prompt against the frozen VAE.

Both go on from their checkpoints. On CUDA they run in bfloat16 by autocast; on the CPU in float32.
"""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from ...shared import sphere
from .. import wrap
from . import architecture, checkpoint, dataset, latents
from .model import ENDS, Perceiver
from .muon import Muon
from .render_io import write_image
from .run import Options, Run, prepare
from .workers import Workers

PERCEPTION = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic")
#: The tasks of every step, as they take longest to learn; the others take turns.
_ALWAYS = ("rgb_to_depth", "rgb_to_albedo")
_IN_TURN = ("rgb_to_normal", "rgb_to_pbr", "rgb_to_semantic", "rgb_to_pbr", "image_to_pano")
_STREAM_WEIGHT = {"rgb": 2.0, "depth": 2.0, "normal": 1.5, "albedo": 1.0, "pbr": 1.0, "semantic": 0.5}


def train(workers: Workers, options: Options) -> None:
    """Both stages, each from where it stopped; returns when they are done or the time is over."""
    run = prepare(options, workers)
    if train_vae(run, options.vae_steps):
        train_perceiver(run, options.perceiver_steps, options.variants, options.pixels_every)


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: up in 30 steps, down to zero in the last third."""
    return min(1.0, (step + 1) / 30, max(0.0, 3 * (1 - step / steps)))


def _loop(
    run: Run, name: str, module: nn.Module, optimizer: Muon, steps: int, rate: float,
    step_loss: Callable[[int], dict[str, float]], validate: Callable[[int], str],
) -> bool:  # fmt: skip
    """Run `step_loss` (which calls backward and returns figures to print) up to `steps`, or until time is over.

    Returns whether all steps are done.
    """
    path = run.checkpoints / f"{name}.safetensors"
    average = checkpoint.Average(module, 0.999)
    step = checkpoint.load(path, module, average, optimizer)
    run.say(f"{name}: from step {step} of {steps}, {len(run.data)} scenes, {run.device}")
    saved, counted, told = time.monotonic(), 0, dict[str, list[float]]()
    while step < steps and not run.workers.agree(time.monotonic() > run.until):
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        figures = step_loss(step)
        run.workers.average_gradients(module)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        step += 1
        average.update(module, step)
        counted += 1
        for key, value in figures.items():
            told.setdefault(key, []).append(value)
        if run.workers.first and (step == steps or time.monotonic() > min(run.until, saved + run.every_s)):
            checkpoint.save(path, step, module, average, optimizer)
            means = " ".join(f"{key} {fmean(values):.4f}" for key, values in told.items())
            run.say(f"{name} {step}: {means} ({(time.monotonic() - saved) / counted:.2f} s a step)")
            run.say(f"{name} {step}: {validate(step)}")
            run.data.refresh()
            saved, counted, told = time.monotonic(), 0, {}
    return step >= steps


def _edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def _picture_loss(shown: Tensor, wanted: Tensor) -> Tensor:
    """L1 of values and of differences between neighbours."""
    loss = (shown - wanted).abs().mean()
    return loss + sum((a - b).abs().mean() for a, b in zip(_edges(shown), _edges(wanted), strict=True))


def psnr(shown: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10((shown.clamp(0, 1) - wanted).square().mean()))


def train_vae(run: Run, steps: int) -> bool:
    """Stage 1: crops of pictures of all kinds; L1, edges, and a light pull of the latents to N(0, 1).

    Returns whether all steps are done.
    """
    torch.manual_seed(0)
    vae = architecture.create()[1]
    for module in vae.modules():
        # Residual branches start at zero: the plain path learns first.
        if type(module).__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
    # And the posterior starts narrow (log variance −6), so that it carries something from the first step.
    assert vae.encoder.conv_out.bias is not None
    nn.init.constant_(vae.encoder.conv_out.bias[architecture.VAE["latent_channels"] :], -6.0)
    vae.to(run.device).to(memory_format=torch.channels_last)
    size = 128 if run.device.type == "cuda" else 64

    def step_loss(step: int) -> dict[str, float]:
        generator = run.generator(step)
        scenes = max(1, run.batch // 2)
        maps = dataset.pictures(dataset.augment(run.data.shuffled(scenes, generator), generator))
        names = list(_STREAM_WEIGHT)
        chances = torch.tensor([_STREAM_WEIGHT[name] for name in names], device=run.device)
        chosen = torch.multinomial(chances, run.batch, replacement=True, generator=generator)
        height, width = maps["rgb"].shape[-2:]
        room = torch.tensor([height - size + 1, width - size + 1], device=run.device)
        places = (torch.rand(run.batch, 2, generator=generator, device=run.device) * room).long().tolist()
        crops = []
        for index, kind in enumerate(chosen.tolist()):
            y, x = places[index]
            crops.append(maps[names[kind]][index % scenes, :, y : y + size, x : x + size])
        wanted = (torch.stack(crops) * 2 - 1).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            posterior = vae.encode(wanted).latent_dist
            sample = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            shown = vae.decode(sample).sample
        kl = posterior.kl().mean() / sample[0].numel()
        loss = _picture_loss(shown.float(), wanted) + 3e-4 * kl
        loss.backward()
        return {
            "loss": float(loss.detach()),
            "kl": float(kl.detach()),
            "psnr": psnr(shown.detach() / 2 + 0.5, wanted / 2 + 0.5),
        }

    @torch.no_grad()
    def validate(step: int) -> str:
        maps = run.heldout.take(torch.arange(min(4, len(run.heldout))))
        wanted = dataset.pictures(maps | {"rgb": dataset.display(maps["rgb"])})
        figures, rows = [], []
        with wrap.circular(vae):
            for name, picture in wanted.items():
                shown = vae.decode(vae.encode(picture * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
                figures.append(f"{name} {psnr(shown, picture):.1f}")
                rows.append(torch.stack([picture[:3], shown[:3].clamp(0, 1)], 1).flatten(0, 1))
        sheet(run.checkpoints / "pictures" / f"vae-{step:06d}.png", torch.stack(rows))
        return "held-out dB: " + ", ".join(figures)

    return _loop(run, "vae", vae, Muon(vae, workers=run.workers), steps, 2e-3, step_loss, validate)


def sheet(path: Path, grid: Tensor) -> None:
    """Write (rows, columns, 3, H, W) in [0, 1] as one PNG."""
    rows = grid.permute(0, 3, 1, 4, 2)  # [rows, H, columns, W, 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = rows.flatten(2, 3).flatten(0, 1).float().cpu().numpy()
    write_image(path, picture, "uint8")


def load_average(run: Run, name: str, module: nn.Module) -> None:
    """Put a stage's averaged weights into `module`. Raises FileNotFoundError where there is no checkpoint."""
    path = run.checkpoints / f"{name}.safetensors"
    average = checkpoint.Average(module, 0)
    if checkpoint.load(path, module, average, Muon(module)) == 0:
        raise FileNotFoundError(path)
    module.load_state_dict(average.weights)


@torch.no_grad()
def trained_vae(run: Run) -> AutoencoderKL:
    """The averaged VAE of stage 1, frozen; its scaling and shift give latents of mean 0 and deviation 1."""
    vae: AutoencoderKL = architecture.create()[1].to(run.device)
    load_average(run, "vae", vae)
    vae.requires_grad_(False).eval()
    maps = run.data.take(torch.arange(min(32, len(run.data))))
    wanted = dataset.pictures(maps | {"rgb": dataset.display(maps["rgb"])})
    found = torch.cat([vae.encode(picture * 2 - 1).latent_dist.mode() for picture in wanted.values()])
    vae.register_to_config(shift_factor=round(float(found.mean()), 4), scaling_factor=round(1 / float(found.std()), 4))
    return vae.to(memory_format=torch.channels_last)


def _map_loss(task: str, shown: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Pixel loss of a decoded map; `weight` (N, 1, H, W) is solid angle, and zero where nothing is asked."""
    total = weight.sum()

    def root_mean_square(error: Tensor) -> Tensor:
        """Of each panorama, as PSNR counts: (N, C, H, W) → (N, C)."""
        squares = (error.square() * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)
        return (squares + 1e-6).sqrt()

    match task:
        case "rgb_to_depth":
            # The grey is log distance: what AbsRel counts, and scale-invariant log (Eigen et al., arXiv 1406.2283).
            error = shown.mean(1, keepdim=True) - wanted[:, :1]
            mean = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
            log = math.log(architecture.DISTANCE_RATIO)
            relative = torch.expm1((error * log).clamp(max=1)).abs() / log
            free_of_scale = (error - 0.8 * mean[:, None, None, None]).abs()
            return ((relative + free_of_scale) * weight).sum() / total
        case "rgb_to_normal":
            cosine = F.cosine_similarity(shown * 2 - 1, wanted * 2 - 1, dim=1)[:, None]
            return ((1 - cosine) * weight).sum() / total
        case "rgb_to_albedo":
            return root_mean_square(shown - wanted).mean()
        case "rgb_to_pbr":
            return root_mean_square((shown - wanted)[:, :2]).mean()
    return ((shown - wanted).abs() * weight).sum() / total / 3


def train_perceiver(run: Run, steps: int, variants: int, pixels_every: int) -> bool:
    """Stage 2: every step takes a batch through distance, albedo and one other task.

    Most steps compare latents of `variants` encoded once; every `pixels_every`th takes pictures that are new, and
    compares maps through the frozen decoder, which costs more than all the rest. Returns whether all steps are done.
    """
    torch.manual_seed(0)
    vae = trained_vae(run)
    file = run.checkpoints / f"latents-{run.data.height}-{variants}.safetensors"
    known = run.workers.in_turn(lambda: latents.encoded(vae, run.data, variants, file, run.say))
    perceiver = Perceiver(architecture.create()[0]).to(run.device)

    def step_loss(step: int) -> dict[str, float]:
        generator = run.generator(step)
        with run.autocast():
            if step % pixels_every == pixels_every - 1:
                task = _IN_TURN[step // pixels_every % 4]
                return _pixel_step(run, vae, perceiver, (*_ALWAYS, task), generator)
            # Every process takes the same.
            task = _IN_TURN[int(torch.randint(len(_IN_TURN), (), generator=torch.Generator().manual_seed(step)))]
            drawn = latents.drawn(known, run.batch, generator)
            if task == "image_to_pano":
                figures = _latent_step(perceiver, _ALWAYS, drawn)
                return figures | {"pano": _pano_step(perceiver, drawn["masked_rgb"], drawn["rgb"], generator)}
            return _latent_step(perceiver, (*_ALWAYS, task), drawn)

    def validate(step: int) -> str:
        return _validate(run, vae, perceiver, step)

    with wrap.circular(vae):
        return _loop(
            run, "perceiver", perceiver, Muon(perceiver, ENDS, workers=run.workers), steps, 5e-3, step_loss, validate
        )


def _latent_loss(task: str, made: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance; of what PSNR measures, the root mean square of each panorama."""
    error = made.float() - wanted.float()
    if task in ("rgb_to_albedo", "rgb_to_pbr"):
        return error.square().mean((1, 2, 3)).sqrt().mean()
    return error.abs().mean()


def _latent_step(perceiver: Perceiver, tasks: tuple[str, ...], drawn: dict[str, Tensor]) -> dict[str, float]:
    figures = {}
    for task in tasks:
        stream = architecture.TASKS[task][1]
        loss = _latent_loss(task, perceiver.perceive(task, drawn["rgb"]), drawn[stream])
        loss.backward()
        figures[stream] = float(loss.detach())
    return figures


def _pixel_step(
    run: Run, vae: AutoencoderKL, perceiver: Perceiver, tasks: tuple[str, ...], generator: torch.Generator
) -> dict[str, float]:
    maps = dataset.augment(run.data.shuffled(max(1, run.batch // 2), generator), generator)
    shown_at = dataset.pictures(maps)
    height = maps["rgb"].shape[-2]
    angle = torch.from_numpy(sphere.solid_angles(height, 2 * height)).to(run.device)
    everywhere = angle.expand(len(maps["rgb"]), 1, height, 2 * height)
    solid = everywhere * (maps["distance"] < 5e4)
    with torch.no_grad():
        rgb = latents.encode(vae, shown_at["rgb"])
    for task in tasks:
        stream = architecture.TASKS[task][1]
        made = perceiver.perceive(task, rgb)
        with torch.no_grad():
            wanted = latents.encode(vae, shown_at[stream])
        shown = latents.decode(vae, made).float()
        weight = everywhere if task in ("rgb_to_depth", "rgb_to_normal", "rgb_to_semantic") else solid
        (_latent_loss(task, made, wanted) + 2 * _map_loss(task, shown, shown_at[stream], weight)).backward()
    return {}


def _pano_step(perceiver: Perceiver, condition: Tensor, clean: Tensor, generator: torch.Generator) -> float:
    """Flow matching (velocity = noise − clean) beside a picture of which only a perspective view is seen."""
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator, device=clean.device) + 0.5)
    mixed = clean + (noise - clean) * t[:, None, None, None]
    velocity = wrap.close(perceiver.velocity("image_to_pano", wrap.extend(condition), wrap.extend(mixed), t))
    loss = F.mse_loss(velocity.float(), noise - clean)
    loss.backward()
    return float(loss.detach())


@torch.no_grad()
def _validate(run: Run, vae: AutoencoderKL, perceiver: Perceiver, step: int) -> str:
    """Loss in pixels on held-out scenes, and pictures of three of them: wanted above, perceived below."""
    count = min(16, len(run.heldout))
    maps = run.heldout.take(torch.arange(count))
    wanted = dataset.pictures(maps | {"rgb": dataset.display(maps["rgb"])})
    rgb = latents.encode(vae, wanted["rgb"])
    figures, rows = [], [wanted["rgb"][:3], latents.decode(vae, rgb[:3])]
    for task in PERCEPTION:
        stream = architecture.TASKS[task][1]
        shown = latents.decode(vae, perceiver.perceive(task, rgb))
        figures.append(f"{stream} {(shown - wanted[stream]).abs().mean():.4f}")
        rows += [wanted[stream][:3], shown[:3]]
    sheet(run.checkpoints / "pictures" / f"perceiver-{step:06d}.png", torch.stack(rows).clamp(0, 1))
    return "held-out L1: " + ", ".join(figures)
