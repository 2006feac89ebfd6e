"""Losses of pictures, maps and latents."""

# diffusers declares unions of outputs and tuples.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from .architecture import DISTANCE_RATIO
from .precision import autocast

#: Error of log distance above which AbsRel is continued linearly, so that a few pixels at edges don't dominate.
_LINEAR_FROM = 1.5


def _edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def picture_loss(shown: Tensor, wanted: Tensor) -> Tensor:
    """Return the L1 error of values plus that of differences between neighbouring pixels."""
    loss = (shown - wanted).abs().mean()
    return loss + sum((a - b).abs().mean() for a, b in zip(_edges(shown), _edges(wanted), strict=True))


def latent_loss(task: str, made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute error; for maps evaluated by PSNR, the root mean square of each panorama."""
    error = made.float() - wanted.float()
    if task in ("rgb_to_albedo", "rgb_to_pbr"):
        return error.square().mean((1, 2, 3)).sqrt().mean()
    return error.abs().mean()


def map_loss(task: str, shown: Tensor, wanted: Tensor, solid: Tensor) -> Tensor:
    """Return the pixel loss of a decoded map; `solid` (N, 1, H, W) is 1 on surfaces, 0 in the sky.

    Pixels are weighted equally, not by solid angle, as in `evaluate`.
    """

    def root_mean_square(error: Tensor) -> Tensor:
        """Return the root mean square over each panorama's surfaces, as in PSNR: (N, C, H, W) → (N, C)."""
        squares = (error.square() * solid).sum((2, 3)) / solid.sum((2, 3)).clamp_min(1)
        return (squares + 1e-6).sqrt()

    match task:
        case "rgb_to_depth":
            return _distance_loss(shown.mean(1, keepdim=True), wanted[:, :1], solid)
        case "rgb_to_normal":
            cosine = F.cosine_similarity(shown * 2 - 1, wanted * 2 - 1, dim=1)
            # Proportional to small angles, which favours flat floors.
            return (1 - cosine).clamp_min(1e-4).sqrt().mean() / 2
        case "rgb_to_albedo":
            return root_mean_square(shown - wanted).mean()
        case "rgb_to_pbr":
            return root_mean_square((shown - wanted)[:, :2]).mean()
    return (shown - wanted).abs().mean()


def _distance_loss(shown: Tensor, wanted: Tensor, solid: Tensor) -> Tensor:
    """Return AbsRel plus the error of log distance (Eigen et al., arXiv 1406.2283), mostly scale-invariant.

    Grey values are log distances. AbsRel penalises overestimates more than underestimates, so ambiguous pixels at
    edges tend to the near side. Errors of the sky have a lower weight.
    """
    error = (shown - wanted) * math.log(DISTANCE_RATIO)
    # The median, as in `evaluate`, is robust against outliers.
    median = error.detach().masked_fill(solid == 0, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)
    free = error - 0.8 * median[:, None, None, None]
    relative = torch.expm1(free.clamp(max=_LINEAR_FROM)).abs() + math.exp(_LINEAR_FROM) * (
        free - _LINEAR_FROM
    ).clamp_min(0)
    surface = ((relative + free.abs()) * solid).sum() / solid.sum().clamp_min(1)
    return surface + 0.3 * (error.abs() * (1 - solid)).mean()


def solid(grey: Tensor) -> Tensor:
    """Return 1 where the encoded distance is not the sky's, else 0: (N, 1, H, W)."""
    return (grey[:, :1] < 0.999).float()


def psnr(shown: Tensor, wanted: Tensor) -> Tensor:
    """Return the PSNR of pictures in [0, 1] in dB."""
    return -10 * torch.log10((shown.clamp(0, 1) - wanted).square().mean())


def vae_loss(vae: AutoencoderKL, wanted: Tensor) -> dict[str, Tensor]:
    """Call backward on the loss of pictures (N, 3, H, W) in [-1, 1]: L1, edges and a weak KL; return figures."""
    with autocast(wanted.device):
        posterior = vae.encode(wanted).latent_dist
        sample = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        shown = vae.decode(sample).sample
    kl = posterior.kl().mean() / sample[0].numel()
    loss = picture_loss(shown.float(), wanted) + 3e-4 * kl
    loss.backward()
    return {"loss": loss.detach(), "kl": kl.detach(), "psnr": psnr(shown.detach() / 2 + 0.5, wanted / 2 + 0.5)}
