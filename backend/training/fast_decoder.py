"""Approximate the VAE's decoder with a small network, for pixel losses at every step.

The decoder itself would take half the time of the rest of a step, the approximation a hundredth. It is fitted to pairs
of latents and pictures, and loses about 2 dB; the steps that use the VAE's decoder compensate for that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .muon import Muon
from .run import Run

_WIDTH = 96
_STEPS, _BATCH = 1200, 12


class FastDecoder(nn.Module):
    """Map latents (N, C, h, w) to pictures (N, 3, 8h, 8w), approximately in [0, 1], with circular padding."""

    def __init__(self, channels: int, scale: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, _WIDTH, 3)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 3)
        self.last = nn.Conv2d(_WIDTH, 3 * scale * scale, 1)
        self.scale = scale

    def forward(self, latents: Tensor) -> Tensor:
        x = F.silu(self.first(_pad(latents)))
        x = x + F.silu(self.second(_pad(x)))
        return F.pixel_shuffle(self.last(x), self.scale) + 0.5


def _pad(x: Tensor) -> Tensor:
    """Pad by one column circularly, and by one row by replication, on each side."""
    return F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")


def train(run: Run, known: dict[str, Tensor]) -> FastDecoder:
    """Fit the network to the pairs of `latents.encode_scenes`; the result is the same in every process."""
    torch.manual_seed(0)
    decoder = FastDecoder(known["rgb"].shape[1]).to(run.device)
    optimizer = Muon(decoder, ("first.weight", "last.weight"))
    streams = [name.removeprefix("picture.") for name in known if name.startswith("picture.")]
    generator = torch.Generator().manual_seed(0)
    errors = []
    for step in range(_STEPS):
        stream = streams[step % len(streams)]
        indices = torch.randint(len(known[stream]), (_BATCH,), generator=generator)
        picture = known[f"picture.{stream}"][indices].to(run.device)
        wanted = picture.float() / (255 if picture.dtype == torch.uint8 else 1)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, 2 * (1 - step / _STEPS))
        optimizer.zero_grad(set_to_none=True)
        error = decoder(known[stream][indices].to(run.device).float()) - wanted
        error.abs().mean().backward()
        optimizer.step()
        errors.append(float(error.detach().square().mean()))
    last = errors[-len(errors) // 10 :]
    run.log(f"fast decoder: {-10 * torch.tensor(last).mean().log10():.1f} dB")
    return decoder.requires_grad_(False)
