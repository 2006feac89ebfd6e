"""Cache the latents of training scenes, so that the second stage does not encode the same pictures at every step.

Rotating a panorama rotates its latents: the VAE uses circular padding (`circular_padding.circular`), and no picture
depends on world directions. Therefore a few augmented variants of each scene are encoded once, and rotated randomly
whenever they are used.
"""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from ..io import atomic
from ..models import weights
from ..pipelines.layers import circular_padding
from . import dataset
from .workers import Workers

_SCENES_PER_FILE = 8


def encode(vae: AutoencoderKL, picture: Tensor) -> Tensor:
    """Encode pictures (N, 3, H, W) in [0, 1] to float32 latents, as OmniXPipeline.encode (inside `circular`) does.

    The VAE computes in its own dtype even under autocast, which would compute its norms in float32.
    """
    with torch.autocast(picture.device.type, enabled=False):
        latents = vae.encode((picture * 2 - 1).to(vae.dtype)).latent_dist.mode().float()
    return (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode latents to pictures (N, 3, H, W) float32, approximately in [0, 1]."""
    latents = latents.float() / vae.config["scaling_factor"] + vae.config["shift_factor"]
    with torch.autocast(latents.device.type, enabled=False):
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL, scenes: dataset.Scenes, height: int, variants: int, checkpoints: Path, workers: Workers,
    log: Callable[[str], None],
) -> dict[str, Tensor]:  # fmt: skip
    """Encode augmented scenes at `height`.

    Return on the CPU: stream → latents (scenes · variants, C, h, w) float16, and `picture.{stream}` of every target
    (…, H, W), float16 for distance, otherwise uint8.

    The results are cached in a folder per VAE, in files of several scenes; only missing ones are computed, shared among
    the processes.
    """
    folder = checkpoints / f"latents-{scenes.height}-{height}-{variants}-{_fingerprint(vae):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        slice(start, min(start + _SCENES_PER_FILE, len(scenes))) for start in range(0, len(scenes), _SCENES_PER_FILE)
    ]
    files = [folder / f"{scenes.names[chunk.start]}-{scenes.names[chunk.stop - 1]}.safetensors" for chunk in chunks]
    missing = [(file, chunk) for file, chunk in zip(files, chunks, strict=True) if not file.exists()]
    log(f"latents: {len(files) - len(missing)} of {len(files)} files are cached")
    with circular_padding.circular(vae):
        for file, chunk in missing[workers.rank :: workers.count]:
            maps = scenes.take(torch.arange(chunk.start, chunk.stop))
            made = [_variant(vae, maps, height, _seed(file.stem, variant)) for variant in range(variants)]
            with atomic.writing(file.parent) as draft:
                save_file({name: torch.cat([part[name] for part in made]) for name in made[0]}, draft / file.name)
    workers.barrier()
    parts = [weights.load(file) for file in files]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _fingerprint(vae: AutoencoderKL) -> int:
    """Return a checksum of everything in the VAE that latents depend on."""
    weights = b"".join(value.cpu().numpy().tobytes() for value in vae.encoder.state_dict().values())
    return zlib.crc32(f"{vae.config['shift_factor']} {vae.config['scaling_factor']}".encode(), zlib.crc32(weights))


def _seed(name: str, variant: int) -> int:
    return zlib.crc32(f"{name} {variant}".encode())


def _variant(vae: AutoencoderKL, maps: dict[str, Tensor], height: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator(maps["rgb"].device).manual_seed(seed)
    shown = dataset.pictures(dataset.augment(maps, generator, height))
    targets = {f"picture.{name}": _compress(name, picture) for name, picture in shown.items() if name != "rgb"}
    shown["masked_rgb"] = dataset.masked(shown["rgb"], generator)
    return {stream: encode(vae, picture).half().cpu().contiguous() for stream, picture in shown.items()} | targets


def _compress(stream: str, picture: Tensor) -> Tensor:
    if stream == "depth":
        # With 8 bits, a step would be 2 % of distance.
        return picture[:, :1].half().cpu().contiguous()
    return (picture * 255).round().byte().cpu().contiguous()


def random_batch(known: dict[str, Tensor], batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random batch of the result of `encode_scenes`, each panorama rotated by a random angle.

    The batch is float32 on the generator's device; pictures are in [0, 1], those of distance with one channel.
    """
    device = generator.device
    columns = known["rgb"].shape[-1]
    indices = torch.randint(len(known["rgb"]), (batch,), generator=generator, device=device).cpu()
    turns = torch.randint(columns, (batch,), generator=generator, device=device).tolist()

    def turned(values: Tensor) -> Tensor:
        scale = values.shape[-1] // columns
        some = [x.roll(turn * scale, -1) for x, turn in zip(values[indices], turns, strict=True)]
        return torch.stack(some).to(device).float() / (255 if values.dtype == torch.uint8 else 1)

    return {name: turned(values) for name, values in known.items()}
