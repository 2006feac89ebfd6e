"""A small stand-in for the VAE's decoder, by which maps are compared as pixels at every step.

The decoder itself costs half as much as the whole rest of a step, this a hundredth. It learns to draw the pictures that
their latents stand for; what it blurs (about 2 dB) is left to the steps that decode in earnest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .muon import Muon
from .run import Run

_WIDTH = 96
_STEPS, _BATCH = 1200, 12


class Sketch(nn.Module):
    """Latents (N, C, h, w) → pictures (N, 3, 8h, 8w), about [0, 1]; goes round as the decoder does."""

    def __init__(self, channels: int, scale: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, _WIDTH, 3)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 3)
        self.last = nn.Conv2d(_WIDTH, 3 * scale * scale, 1)
        self.scale = scale

    def forward(self, latents: Tensor) -> Tensor:
        x = F.silu(self.first(_bordered(latents)))
        x = x + F.silu(self.second(_bordered(x)))
        return F.pixel_shuffle(self.last(x), self.scale) + 0.5


def _bordered(x: Tensor) -> Tensor:
    """One more column on each side, from around the panorama, and one more row, repeated."""
    return F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")


def learn(run: Run, known: dict[str, Tensor]) -> Sketch:
    """A sketch of the decoder from `latents.encoded`'s pairs; every process makes the same."""
    torch.manual_seed(0)
    sketch = Sketch(known["rgb"].shape[1]).to(run.device)
    optimizer = Muon(sketch, ("first.weight", "last.weight"))
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
        error = sketch(known[stream][indices].to(run.device).float()) - wanted
        error.abs().mean().backward()
        optimizer.step()
        errors.append(float(error.detach().square().mean()))
    last = errors[-len(errors) // 10 :]
    run.say(f"sketch of the decoder: {-10 * torch.tensor(last).mean().log10():.1f} dB")
    return sketch.requires_grad_(False)
