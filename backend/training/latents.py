"""Training scenes as latents, so that the second stage does not encode the same pictures at every step.

A panorama's latents turn with it: the VAE goes round (`wrap.circular`), and no picture tells directions of the world.
So a few augmented variants of each scene are encoded once, and turned anew whenever they are drawn.
"""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import wrap
from . import dataset

_AT_ONCE = 8


def encode(vae: AutoencoderKL, picture: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] → latents, as OmniXPipeline.encode makes them (inside wrap.circular)."""
    latents = vae.encode(picture * 2 - 1).latent_dist.mode()
    return (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents → (N, 3, H, W), about [0, 1]."""
    return vae.decode(latents / vae.config["scaling_factor"] + vae.config["shift_factor"]).sample / 2 + 0.5


@torch.no_grad()
def encoded(
    vae: AutoencoderKL, scenes: dataset.Scenes, variants: int, file: Path, say: Callable[[str], None]
) -> dict[str, Tensor]:
    """Stream → (scenes · variants, C, h, w) float16 on the CPU; kept in `file`, to which new scenes are added."""
    parts = {stream: [values] for stream, values in load_file(file).items()} if file.exists() else {}
    done = len(parts["rgb"][0]) // variants if parts else 0
    if done == len(scenes):
        return {stream: values for stream, (values,) in parts.items()}
    say(f"latents: {done} of {len(scenes)} scenes are there")
    with wrap.circular(vae):
        for start in range(done, len(scenes), _AT_ONCE):
            maps = scenes.take(torch.arange(start, min(start + _AT_ONCE, len(scenes))))
            for variant in range(variants):
                generator = torch.Generator(scenes.device).manual_seed(start * variants + variant)
                shown = dataset.pictures(dataset.augment(maps, generator))
                shown["masked_rgb"] = dataset.masked(shown["rgb"], generator)
                for stream, picture in shown.items():
                    parts.setdefault(stream, []).append(encode(vae, picture).half().cpu())
    made = {stream: torch.cat(batches).contiguous() for stream, batches in parts.items()}
    draft = file.with_suffix(".draft")
    save_file(made, draft)
    draft.replace(file)
    return made


def drawn(latents: dict[str, Tensor], batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A batch at random, float32 on the generator's device, each panorama turned by its own angle."""
    device = generator.device
    some = next(iter(latents.values()))
    indices = torch.randint(len(some), (batch,), generator=generator, device=device).cpu()
    turns = torch.randint(some.shape[-1], (batch,), generator=generator, device=device).tolist()
    return {
        stream: torch.stack([x.roll(turn, -1) for x, turn in zip(values[indices], turns, strict=True)])
        .to(device)
        .float()
        for stream, values in latents.items()
    }
