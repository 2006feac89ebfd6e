"""What pictures, maps and latents are compared by."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .architecture import DISTANCE_RATIO

#: Error of log distance from where on AbsRel goes on in a line, lest a few pixels at edges outweigh all others.
_STEEP = 1.5


def _edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def picture_loss(shown: Tensor, wanted: Tensor) -> Tensor:
    """L1 of values and of differences between neighbours."""
    loss = (shown - wanted).abs().mean()
    return loss + sum((a - b).abs().mean() for a, b in zip(_edges(shown), _edges(wanted), strict=True))


def latent_loss(task: str, made: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance; of what PSNR measures, the root mean square of each panorama."""
    error = made.float() - wanted.float()
    if task in ("rgb_to_albedo", "rgb_to_pbr"):
        return error.square().mean((1, 2, 3)).sqrt().mean()
    return error.abs().mean()


def map_loss(task: str, shown: Tensor, wanted: Tensor, solid: Tensor) -> Tensor:
    """Pixel loss of a decoded map; `solid` (N, 1, H, W) is 1 where there is a surface, 0 in the sky.

    Pixels count by themselves, not by solid angle, as `evaluate` counts them.
    """

    def root_mean_square(error: Tensor) -> Tensor:
        """Of each panorama's surfaces, as PSNR counts: (N, C, H, W) → (N, C)."""
        squares = (error.square() * solid).sum((2, 3)) / solid.sum((2, 3)).clamp_min(1)
        return (squares + 1e-6).sqrt()

    match task:
        case "rgb_to_depth":
            return _distance_loss(shown.mean(1, keepdim=True), wanted[:, :1], solid)
        case "rgb_to_normal":
            cosine = F.cosine_similarity(shown * 2 - 1, wanted * 2 - 1, dim=1)
            # While it is small, in proportion to the angle, so that flat floors become flat.
            return (1 - cosine).clamp_min(1e-4).sqrt().mean() / 2
        case "rgb_to_albedo":
            return root_mean_square(shown - wanted).mean()
        case "rgb_to_pbr":
            return root_mean_square((shown - wanted)[:, :2]).mean()
    return (shown - wanted).abs().mean()


def _distance_loss(shown: Tensor, wanted: Tensor, solid: Tensor) -> Tensor:
    """AbsRel of surfaces, and the error of log distance (Eigen et al., arXiv 1406.2283), nearly free of scale.

    Greys are log distances. AbsRel punishes what is too far more than what is too near, so where near and far meet it
    pulls to the near side; the sky must be far, but may give way to what stands before it.
    """
    error = (shown - wanted) * math.log(DISTANCE_RATIO)
    # The median, as in `evaluate`: a mean would be moved by the few pixels that are far off.
    median = error.detach().masked_fill(solid == 0, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)
    free = error - 0.8 * median[:, None, None, None]
    relative = torch.expm1(free.clamp(max=_STEEP)).abs() + math.exp(_STEEP) * (free - _STEEP).clamp_min(0)
    surface = ((relative + free.abs()) * solid).sum() / solid.sum().clamp_min(1)
    return surface + 0.3 * (error.abs() * (1 - solid)).mean()


def solid(grey: Tensor) -> Tensor:
    """1 where distance, as it is drawn, is not the sky's."""
    return (grey[:, :1] < 0.999).float()
