"""Seamless panoramas: OmniX's blended extension of the latents, and circular convolutions in the VAE.

Latents are (N, C, h, w), images (N, 3, H, W); the last axis is longitude and its two ends are the same meridian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

#: Latent columns appended on the right while denoising (OmniX's `blend_extend`); even, as tokens are two columns wide.
EXTENSION = 6
#: Latent columns that the reference appends before it decodes.
DECODE_EXTENSION = 2
#: Numbers of a convolution's input that are convolved at once: 32 rows of 256 channels, 2048 pixels wide.
BAND = 2**24


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
    tiling, vae.use_tiling = vae.use_tiling, False
    try:
        with _convolutions(vae, wrap=True):
            yield
    finally:
        vae.use_tiling = tiling


def in_bands(vae: AutoencoderKL) -> AbstractContextManager[None]:
    """Let each convolution of `vae` compute large pictures in bands of rows within the block, with the same result.

    cuDNN copies the whole input and output of a convolution in 16 bits into its own layout. `circular` does this, too.
    """
    return _convolutions(vae, wrap=False)


@contextmanager
def _convolutions(vae: AutoencoderKL, wrap: bool) -> Iterator[None]:
    convolutions = [x for x in vae.modules() if isinstance(x, nn.Conv2d) and x.kernel_size[0] > 1]
    before = [x.__dict__.get("forward") for x in convolutions]
    for conv in convolutions:
        conv.forward = partial(_convolve, conv, wrap)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for conv, forward in zip(convolutions, before, strict=True):
            del conv.forward
            if forward is not None:
                conv.forward = forward


def _convolve(conv: nn.Conv2d, wrap: bool, x: Tensor) -> Tensor:
    """Apply a convolution of the VAE to (N, C, H, W); with `wrap`, columns go on across the seam.

    Only the outermost columns of the result depend on what is beyond the seam: computing these once more takes less
    time than to pad the whole input.
    """
    out = _in_bands(conv, x)
    if wrap:
        padding = int(conv.padding[1])
        if padding:
            around = torch.cat([x[..., -2 * padding :], x[..., : 2 * padding]], dim=-1)
            last, first = _rows(conv, around).split(padding, dim=-1)
            out[..., -padding:], out[..., :padding] = last, first
        else:
            # diffusers' Downsample2D has put a row and a column of zeros behind the picture.
            out[..., -1:] = _rows(conv, torch.cat([x[..., -3:-1], x[..., :1]], dim=-1))
    return out


def _in_bands(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to (N, C, H, W) in bands of rows of its output."""
    padding, kernel, stride = int(conv.padding[0]), conv.kernel_size[0], conv.stride[0]
    height = x.shape[-2]
    rows = (height + 2 * padding - kernel) // stride + 1
    step = max(1, BAND * height // (x.numel() * stride))
    if step >= rows:
        return _conv2d(conv, x, padding, padding)
    out: Tensor | None = None
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        first, last = top * stride - padding, (bottom - 1) * stride + kernel - padding
        band = F.pad(x[..., max(first, 0) : min(last, height), :], (0, 0, max(-first, 0), max(last - height, 0)))
        part = _conv2d(conv, band, 0, padding)
        if out is None:
            out = part.new_empty(*part.shape[:2], rows, part.shape[-1])
        out[..., top:bottom, :] = part
    assert out is not None
    return out


def _rows(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to (N, C, H, w), whose columns aren't padded."""
    return _conv2d(conv, x, int(conv.padding[0]), 0)


def _conv2d(conv: nn.Conv2d, x: Tensor, rows: int, columns: int) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, (rows, columns))


def decode_blended(decode: Callable[[Tensor], Tensor], latents: Tensor, scale: int) -> Tensor:
    """Decode (N, C, h, w) latents into (N, 3, h · scale, w · scale) as the reference does.

    Two columns are appended, and the last 2 · scale pixels of the image are blended into the first. This leaves no step
    at the seam, but the columns beside it still see the zero padding beyond; with `circular` there are no such columns.
    """
    return close(decode(extend(latents, DECODE_EXTENSION)), DECODE_EXTENSION * scale)
