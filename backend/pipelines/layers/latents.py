"""Conversions between latents (N, C, h, w) and the transformer's tokens (N, h/2 · w/2, 4C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Pack latents (N, C, h, w) into tokens (N, h/2 · w/2, 4C), each a square of 2 × 2 latents, row by row."""
    return F.pixel_unshuffle(latents, 2).flatten(2).mT.contiguous()


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Unpack tokens (N, rows · columns, 4C) into latents (N, C, 2 · rows, 2 · columns)."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (rows, -1)), 2)


def image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the position ids of the tokens, (rows · columns, 3) float32: zero, row, column."""
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).flatten(0, 1).to(device, torch.float32)
