"""Process a large panorama in overlapping tiles that wrap around the seam and are blended.

As MultiDiffusion (arXiv 2302.08113) and, for a VAE, diffusers' tiling, but with tiles across the seam.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def blend(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: tuple[int, int],
    overlap: int,
    *,
    unit_in: int = 1,
    unit_out: int = 1,
) -> Tensor:
    """Apply `fn` to tiles of `x` (N, C, h · unit_in, w · unit_in) → (N, C', h · unit_out, w · unit_out) float32.

    Args:
        fn: (N, C, rows · unit_in, columns · unit_in) → (N, C', rows · unit_out, columns · unit_out).
        tile: (rows, columns) of a tile, in units; larger ones are cut to (h, w).
        overlap: least overlap of neighbours in units, less than a tile's sides. Their weights fall off within it.
    """
    height, width = x.shape[-2] // unit_in, x.shape[-1] // unit_in
    rows, columns = min(tile[0], height), min(tile[1], width)
    weight = _ramp(rows, overlap, unit_out)[:, None] * _ramp(columns, overlap, unit_out)
    weight = weight.to(x.device)
    total = torch.zeros(height * unit_out, width * unit_out, device=x.device)
    out: Tensor | None = None
    for top in _starts(height, rows, overlap):
        band = slice(top * unit_out, (top + rows) * unit_out)
        for left in _circular_starts(width, columns, overlap):
            window = x[..., top * unit_in : (top + rows) * unit_in, :]
            y = fn(window.index_select(-1, _columns(left, columns, width, unit_in, x.device))).float()
            if out is None:
                out = torch.zeros(*y.shape[:2], *total.shape, device=x.device)
            where = _columns(left, columns, width, unit_out, x.device)
            out[..., band, :].index_add_(-1, where, y * weight)
            total[band].index_add_(-1, where, weight)
    assert out is not None
    return out / total


def _columns(left: int, columns: int, width: int, unit: int, device: torch.device) -> Tensor:
    return torch.arange(left * unit, (left + columns) * unit, device=device) % (width * unit)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first units of the fewest tiles that cover `length`, evenly spread from end to end."""
    gaps = math.ceil((length - tile) / (tile - overlap))
    return [round(i * (length - tile) / max(gaps, 1)) for i in range(gaps + 1)]


def _circular_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first units of the tiles that cover a circular `length`: at least two, as one would overlap itself."""
    count = max(2, math.ceil(length / (tile - overlap)))
    return [round(i * length / count) for i in range(count)]


def _ramp(units: int, overlap: int, unit: int) -> Tensor:
    place = torch.arange(units * unit) + 0.5
    return torch.minimum(place, place.flip(0)).div(max(overlap * unit, 1)).clamp(max=1)
