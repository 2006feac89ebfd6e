"""Train the two stages: the VAE, then transformer, adapters and prompt with the frozen VAE.

Both resume from their checkpoints; the second may start from a starter folder. Computation is in bfloat16 on CUDA, and
in float32 on the CPU.
"""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from ..evaluation import evaluate, ground_truth
from ..perception import decode as decoding
from ..pipelines.layers import circular_padding
from . import architecture, checkpoint, dataset, fast_decoder, latents, losses
from .model import END_LAYERS, Perceiver
from .muon import Muon
from .precision import autocast
from .run import Options, Run, prepare
from .scenes.render_io import write_image
from .workers import Workers

PERCEPTION = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic")
#: Tasks trained at every step, as they take longest to learn; the others alternate at every second step.
_ALWAYS = ("rgb_to_depth", "rgb_to_albedo")
_IN_TURN = ("rgb_to_normal", "rgb_to_pbr", "rgb_to_semantic", "rgb_to_pbr", "image_to_pano")
_DECODE = msgspec.convert(architecture.PANOFORM["decode"], decoding.Decode)
#: One in this many steps with new pictures is at half the height, for drafts.
_DRAFT_EVERY = 6
#: Number of scenes, the first ones, for the mean and standard deviation of latents; independent of scenes added later.
_NORMALISATION_SCENES = 32
_STREAM_WEIGHT = {"rgb": 2.0, "depth": 2.0, "normal": 1.5, "albedo": 1.0, "pbr": 1.0, "semantic": 0.5}


def train(workers: Workers, options: Options) -> None:
    """Train both stages, resuming each; return when they are complete or the time limit is reached."""
    run = prepare(options, workers)
    if run.start or train_vae(run, options.vae_steps):
        train_perceiver(run, options.perceiver_steps, options.variants, options.pixels_every)


def _rate(step: int, steps: int) -> float:
    """Return the learning rate's factor: 30 warm-up steps, linear decay to zero (Bergsma et al., arXiv 2502.15938)."""
    return min((step + 1) / 30, max(0.0, 1 - step / steps))


def _loop(
    run: Run, name: str, module: nn.Module, optimizer: Muon, steps: int, rate: float,
    step_loss: Callable[[int], dict[str, Tensor]], validate: Callable[[int], str],
) -> bool:  # fmt: skip
    """Train up to `steps`, or the time limit; `step_loss` calls backward and returns figures to print.

    Return whether all steps are complete.
    """
    path = run.checkpoints / f"{name}.safetensors"
    average = checkpoint.Average(module, 0.999)
    step = checkpoint.load(path, module, average, optimizer)
    run.log(f"{name}: from step {step} of {steps}, {run.scenes} scenes, {run.device}")
    saved, counted, history = time.monotonic(), 0, dict[str, list[Tensor]]()
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
            history.setdefault(key, []).append(value)
        if run.workers.first and (step == steps or time.monotonic() > min(run.until, saved + run.every_s)):
            checkpoint.save(path, step, module, average, optimizer)
            means = " ".join(f"{key} {torch.stack(values).mean():.4f}" for key, values in history.items())
            run.log(f"{name} {step}: {means} ({(time.monotonic() - saved) / counted:.2f} s/step)")
            run.log(f"{name} {step}: {validate(step)}")
            for scenes in run.data:
                scenes.refresh()
            saved, counted, history = time.monotonic(), 0, {}
    return step >= steps


def train_vae(run: Run, steps: int) -> bool:
    """Train stage 1 on crops of pictures of all streams, with L1, edge and weak KL losses.

    Return whether all steps are complete.
    """
    torch.manual_seed(0)
    vae = architecture.create()[1]
    architecture.prepare_vae(vae)
    vae.to(run.device).to(memory_format=torch.channels_last)
    size = 128 if run.device.type == "cuda" else 64

    def step_loss(step: int) -> dict[str, Tensor]:
        generator = run.generator(step)
        maps = dataset.pictures(dataset.augment(run.random_batch(generator), generator, run.height))
        names = list(_STREAM_WEIGHT)
        chances = torch.tensor([_STREAM_WEIGHT[name] for name in names], device=run.device)
        chosen = torch.multinomial(chances, run.batch, replacement=True, generator=generator)
        height, width = maps["rgb"].shape[-2:]
        room = torch.tensor([height - size + 1, width - size + 1], device=run.device)
        places = (torch.rand(run.batch, 2, generator=generator, device=run.device) * room).long().tolist()
        crops = []
        for index, kind in enumerate(chosen.tolist()):
            y, x = places[index]
            crops.append(maps[names[kind]][index, :, y : y + size, x : x + size])
        wanted = (torch.stack(crops) * 2 - 1).contiguous(memory_format=torch.channels_last)
        return losses.vae_loss(vae, wanted)

    @torch.no_grad()
    def validate(step: int) -> str:
        wanted = _unaugmented(run, run.heldout, 4)
        figures, rows = [], []
        with circular_padding.circular(vae):
            for name, picture in wanted.items():
                shown = vae.decode(vae.encode(picture * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
                figures.append(f"{name} {losses.psnr(shown, picture):.1f}")
                rows.append(torch.stack([picture[:3], shown[:3].clamp(0, 1)], 1).flatten(0, 1))
        contact_sheet(run.checkpoints / "pictures" / f"vae-{step:06d}.png", torch.stack(rows))
        return "held-out dB: " + ", ".join(figures)

    return _loop(run, "vae", vae, Muon(vae, workers=run.workers), steps, 2e-3, step_loss, validate)


def contact_sheet(path: Path, grid: Tensor) -> None:
    """Write (rows, columns, 3, H, W) in [0, 1] as one PNG."""
    rows = grid.permute(0, 3, 1, 4, 2)  # [rows, H, columns, W, 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = rows.flatten(2, 3).flatten(0, 1).float().cpu().numpy()
    write_image(path, picture, "uint8")


def _unaugmented(run: Run, scenes: dataset.Scenes, count: int) -> dict[str, Tensor]:
    """Return the pictures of the first scenes without augmentation, at the training height."""
    maps = dataset.enlarge(scenes.take(torch.arange(min(count, len(scenes)))), run.height)
    return dataset.pictures(maps | {"rgb": dataset.display(maps["rgb"])})


def load_average(run: Run, name: str, module: nn.Module) -> None:
    """Load a stage's averaged weights into `module`. Raise FileNotFoundError if there is no checkpoint."""
    path = run.checkpoints / f"{name}.safetensors"
    average = checkpoint.Average(module, 0)
    if checkpoint.load(path, module, average, Muon(module)) == 0:
        raise FileNotFoundError(path)
    module.load_state_dict(average.weights)


@torch.no_grad()
def load_trained_vae(run: Run) -> AutoencoderKL:
    """Load the averaged VAE of stage 1, frozen, with scaling and shift for latents of mean 0 and standard deviation 1.

    If training started from a starter folder, load that one's VAE unchanged.
    """
    vae = architecture.create()[1].to(run.device)
    # On CUDA, norms would copy channels-last tensors.
    vae.to(memory_format=torch.channels_last if run.device.type == "cpu" else torch.contiguous_format)
    vae.requires_grad_(False).eval()
    if run.start:
        kept = AutoencoderKL.from_pretrained(run.start / "vae", torch_dtype=torch.float32, use_safetensors=True)
        vae.load_state_dict(kept.state_dict())
        vae.register_to_config(shift_factor=kept.config["shift_factor"], scaling_factor=kept.config["scaling_factor"])
        return vae
    load_average(run, "vae", vae)
    wanted = _unaugmented(run, run.data[0], _NORMALISATION_SCENES)
    found = torch.cat([vae.encode(picture * 2 - 1).latent_dist.mode() for picture in wanted.values()])
    vae.register_to_config(shift_factor=round(float(found.mean()), 4), scaling_factor=round(1 / float(found.std()), 4))
    return vae


#: Weight of the pixel loss relative to the latent loss.
_PIXEL_WEIGHT = {"rgb_to_depth": 1.0, "rgb_to_normal": 1.5, "rgb_to_albedo": 2.0, "rgb_to_pbr": 2.0}


def train_perceiver(run: Run, steps: int, variants: int, pixels_every: int) -> bool:
    """Train stage 2: distance and albedo at every step, and another task at every second step.

    Every `pixels_every`th step uses newly augmented pictures and the VAE's decoder. The other steps use cached latents
    of `variants` augmentations per scene, and a fast approximation of the decoder; on a CPU they take a fraction of the
    time. On a GPU they are not needed (`pixels_every` 1). Return whether all steps are complete.
    """
    torch.manual_seed(0)
    vae = load_trained_vae(run)
    if run.device.type == "cuda":
        vae.to(torch.bfloat16)
    perceiver = Perceiver(architecture.create()[0]).to(run.device)
    if run.start:
        perceiver.load_starter(run.start)
    cached_step = _cached_steps(run, vae, perceiver, variants) if pixels_every > 1 else None

    def step_loss(step: int) -> dict[str, Tensor]:
        generator = run.generator(step)
        if cached_step and step % pixels_every != pixels_every - 1:
            return cached_step(step, generator)
        count = step // pixels_every
        tasks = (*_ALWAYS, _IN_TURN[count % len(_IN_TURN)])
        height = run.height // 2 if count % _DRAFT_EVERY == _DRAFT_EVERY - 1 else run.height
        return _pixel_step(run, vae, perceiver, tasks, height, generator)

    def validate(step: int) -> str:
        return _validate(run, vae, perceiver, step)

    with circular_padding.circular(vae):
        # A lower rate for a trained starter, whose weights a higher one would degrade at first.
        rate = 3e-3 if run.start else 5e-3
        optimizer = Muon(perceiver, END_LAYERS, workers=run.workers)
        return _loop(run, "perceiver", perceiver, optimizer, steps, rate, step_loss, validate)


def _cached_steps(
    run: Run, vae: AutoencoderKL, perceiver: Perceiver, variants: int
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """Return the step function for cached latents."""
    parts = [
        latents.encode_scenes(vae, scenes, run.height, variants, run.checkpoints, run.workers, run.log)
        for scenes in run.data
    ]
    known = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    drawing = fast_decoder.train(run, known)

    def step_loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = latents.random_batch(known, run.batch, generator)
        with autocast(run.device):
            figures = _cached_step(perceiver, drawing, _ALWAYS, drawn)
            if step % 2 == 0:
                return figures
            task = _IN_TURN[step // 2 % len(_IN_TURN)]
            if task == "image_to_pano":
                return figures | {"pano": _pano_step(perceiver, drawn["masked_rgb"], drawn["rgb"], generator)}
            return figures | _cached_step(perceiver, drawing, (task,), drawn)

    return step_loss


def _cached_step(
    perceiver: Perceiver, drawing: fast_decoder.FastDecoder, tasks: tuple[str, ...], drawn: dict[str, Tensor]
) -> dict[str, Tensor]:
    figures, solid = {}, losses.solid(drawn["picture.depth"])
    for task in tasks:
        stream = architecture.TASKS[task][1]
        made = perceiver.perceive(task, drawn["rgb"])
        pixels = losses.map_loss(task, drawing(made.float()), drawn[f"picture.{stream}"], solid)
        _loss(task, made, drawn[stream], pixels).backward()
        figures[stream] = pixels.detach()
    return figures


def _pixel_step(
    run: Run, vae: AutoencoderKL, perceiver: Perceiver, tasks: tuple[str, ...], height: int, generator: torch.Generator
) -> dict[str, Tensor]:
    pictures = dataset.pictures(dataset.augment(run.random_batch(generator), generator, height))
    solid, figures = losses.solid(pictures["depth"]), {}
    with autocast(run.device):
        with torch.no_grad():
            rgb = latents.encode(vae, pictures["rgb"])
        for task in tasks:
            if task == "image_to_pano":
                with torch.no_grad():
                    masked = latents.encode(vae, dataset.masked(pictures["rgb"], generator))
                figures["pano"] = _pano_step(perceiver, masked, rgb, generator)
                continue
            stream = architecture.TASKS[task][1]
            made = perceiver.perceive(task, rgb)
            with torch.no_grad():
                wanted = latents.encode(vae, pictures[stream])
            shown = latents.decode(vae, made)
            pixels = losses.map_loss(task, shown, pictures[stream], solid)
            _loss(task, made, wanted, pixels).backward()
            figures[stream] = pixels.detach()
    return figures


def _loss(task: str, made: Tensor, wanted: Tensor, pixels: Tensor) -> Tensor:
    return losses.latent_loss(task, made, wanted) + _PIXEL_WEIGHT.get(task, 1.0) * pixels


def _pano_step(perceiver: Perceiver, condition: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
    """Train `image_to_pano` by flow matching (velocity = noise − clean), conditioned on a perspective view."""
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator, device=clean.device) + 0.5)
    mixed = clean + (noise - clean) * t[:, None, None, None]
    velocity = circular_padding.close(
        perceiver.velocity("image_to_pano", circular_padding.extend(condition), circular_padding.extend(mixed), t)
    )
    loss = F.mse_loss(velocity.float(), noise - clean)
    loss.backward()
    return loss.detach()


@torch.no_grad()
def _validate(run: Run, vae: AutoencoderKL, perceiver: Perceiver, step: int) -> str:
    """Return figures of held-out scenes in a single pass; write pictures of three, ground truth above prediction."""
    count = min(16, len(run.heldout))
    wanted = _unaugmented(run, run.heldout, count)
    rgb = latents.encode(vae, wanted["rgb"])
    made, rows = [dict[str, np.ndarray]() for _ in range(count)], [wanted["rgb"][:3], latents.decode(vae, rgb[:3])]
    for task in PERCEPTION:
        stream = architecture.TASKS[task][1]
        shown = latents.decode(vae, perceiver.perceive(task, rgb)).clamp(0, 1)
        rows += [wanted[stream][:3], shown[:3]]
        shown = F.adaptive_avg_pool2d(shown, (run.heldout.height, 2 * run.heldout.height))
        for found, picture in zip(made, shown.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            found |= decoding.decode(stream, picture, _DECODE)
    contact_sheet(run.checkpoints / "pictures" / f"perceiver-{step:06d}.png", torch.stack(rows).clamp(0, 1))
    known = [ground_truth.read_scene(run.heldout.folder / name) for name in run.heldout.names[:count]]
    figures = evaluate.means([evaluate.measure(*pair) for pair in zip(made, known, strict=True)])
    return "held out: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
