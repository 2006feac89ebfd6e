"""The noise schedule of multi-view diffusion: the signal-to-noise ratio of late timesteps divided by a scale."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted_betas(alphas_cumprod: Tensor, scale: float = 8.0) -> Tensor:
    """Return the betas (T,) float32 of a schedule (T,) whose signal-to-noise ratio is shifted.

    The ratio is interpolated, in logarithms, from its own value at the first timestep to the `scale`th part of it at
    the last: views that share their content need more noise to be formed together (simple diffusion, arXiv
    2301.11093; `ShiftSNRScheduler`, mode "interpolated", of huanngzh/MV-Adapter). Computed in float32 and in the
    reference's order, which changes the result by 1e-4.
    """
    alphas_cumprod = alphas_cumprod.float()
    ratio = (alphas_cumprod.sqrt() / (1 - alphas_cumprod).sqrt()) ** 2
    weight = torch.arange(len(ratio), dtype=torch.float32) / (len(ratio) - 1)
    ratio = torch.exp(torch.log(ratio) * (1 - weight) + torch.log(ratio / scale) * weight)
    shifted = (ratio / (1 + ratio)).sqrt() ** 2
    return 1 - shifted / torch.cat([torch.ones(1), shifted[:-1]])
