"""Seamless panoramas: OmniX's blended extension of the latents, and circular convolutions in the VAE.

Latents are (N, C, h, w), images (N, 3, H, W); the last axis is longitude and its two ends are the same meridian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

#: Latent columns appended on the right while denoising (OmniX's `blend_extend`); even, as tokens are two columns wide.
EXTENSION = 6
#: Latent columns that the reference appends before it decodes.
DECODE_EXTENSION = 2


def extend(latents: Tensor, columns: int = EXTENSION) -> Tensor:
    """Extend (…, w) to (…, w + columns): the first columns are repeated after the last one."""
    return torch.cat([latents, latents[..., :columns]], dim=-1)


def blend(x: Tensor, columns: int = EXTENSION) -> Tensor:
    """Blend the last `columns` into the first `columns`, which they repeat; the rest is unchanged.

    Column 0 is taken from the extension, which continues the right edge; from there its weight falls linearly.
    """
    weight = torch.arange(columns, device=x.device, dtype=x.dtype) / columns
    left = x[..., -columns:] * (1 - weight) + x[..., :columns] * weight
    return torch.cat([left, x[..., columns:]], dim=-1)


def close(x: Tensor, columns: int = EXTENSION) -> Tensor:
    """Blend the extension into the left edge and crop it: (…, w + columns) → (…, w)."""
    return blend(x, columns)[..., : x.shape[-1] - columns]


@contextmanager
def circular(vae: AutoencoderKL) -> Iterator[None]:
    """Make each convolution of `vae` read across the seam within the block, so that panoramas have no edge there.

    Rolling the image by a multiple of the VAE's scale then rolls the latents exactly, and vice versa: the norms and
    the attention of an AutoencoderKL do not depend on positions. Padding the image and cropping would cost more and be
    less exact, since the padding takes part in norms and attention. diffusers' tiles would each wrap around by
    themselves, so tiling is disabled within the block.
    """
    hooks, tiling = [], vae.use_tiling
    for conv in vae.modules():
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size[1] == 1:
            continue
        if conv.padding[1]:
            hooks.append(conv.register_forward_hook(_compute_edges))
        else:
            hooks.append(conv.register_forward_pre_hook(_repeat_first_column))
    vae.use_tiling = False
    try:
        yield
    finally:
        vae.use_tiling = tiling
        for hook in hooks:
            hook.remove()


def _compute_edges(conv: nn.Conv2d, args: tuple[Tensor], out: Tensor) -> None:
    """Compute the first and last column of the output again, of a convolution 3 columns wide with zeros beside them.

    To pad its input would copy it, which takes a fifth of the memory.
    """
    (x,) = args
    for column, beside in ((0, [-1, 0, 1]), (-1, [-2, -1, 0])):
        strip = torch.stack([x[..., i] for i in beside], dim=-1)
        edge = F.conv2d(strip, conv.weight, conv.bias, padding=(int(conv.padding[0]), 0))
        out[..., column] = edge[..., 0]


def _repeat_first_column(conv: nn.Module, args: tuple[Tensor]) -> Tensor:
    # diffusers' Downsample2D has put one column of zeros on the right before this convolution.
    (x,) = args
    return torch.cat([x[..., :-1], x[..., :1]], dim=-1)


def decode_blended(decode: Callable[[Tensor], Tensor], latents: Tensor, scale: int) -> Tensor:
    """Decode (N, C, h, w) latents into (N, 3, h · scale, w · scale) as the reference does.

    Two columns are appended, and the last 2 · scale pixels of the image are blended into the first. This leaves no step
    at the seam, but the columns beside it still see the zero padding beyond; with `circular` there are no such columns.
    """
    return close(decode(extend(latents, DECODE_EXTENSION)), DECODE_EXTENSION * scale)
