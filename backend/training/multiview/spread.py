"""What the engine projection makes of random objects: the front's colours, spread over what it doesn't show.

As `backend/texturing/fill.py`, but on the points that six views show instead of on a mesh's: each unseen point takes
the mean of its neighbours (Laplace's equation on their graph, the seen points fixed).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...texturing.bake import MIN_COSINE
from ...texturing.cameras import AXES, ORTHO_SCALE
from ..colour import linear_from_srgb, srgb_from_linear
from .render import Sample

#: Neighbours of a point, and the steps of Jacobi's iteration, which begins at the colour of the nearest seen point.
_NEIGHBOURS, _STEPS = 8, 300
#: The points of the graph lie on every second pixel.
_EVERY = 2
#: Least cosine between the normals of neighbours: the two sides of a thin wall are none.
_SAME_SIDE = -0.2
#: A point is seen where the front shows one at most so many pixels away.
_NEAR_PX = 1.5


class _Graph(NamedTuple):
    """The points of an object, where they are in its views, and their neighbours."""

    #: (6, h, h) bool: which pixels of the coarse grid are points, in their order.
    place: Tensor
    #: (P, 3) linear; (P,) bool: whether it is known.
    colour: Tensor
    fixed: Tensor
    #: (P, _NEIGHBOURS) numbers of points, and their weights, which sum to 1, or to 0 without any.
    beside: Tensor
    weight: Tensor


@torch.no_grad()
def project(made: Sample) -> tuple[Tensor, Tensor]:
    """Return (views (B, 6, 3, H, H) sRGB, seen (B, 6, 1, H, H) in {0, 1}) of objects of which the front is known.

    Where the front shows them, the views are the true ones; elsewhere its colours, spread in linear light. Grey without
    the object.
    """
    mask = (made.control[:, :, 3:] - 0.5).abs().amax(2) > 0.01  # (B, 6, H, H)
    points = made.control[:, :, :3].movedim(2, -1) - 0.5
    normals = F.normalize(made.control[:, :, 3:].movedim(2, -1) - 0.5, dim=-1, eps=1e-6)
    seen = torch.stack([_shown(*one) for one in zip(points, normals, mask, strict=True)])
    linear = linear_from_srgb(made.views.movedim(2, -1))
    graphs = [_graph(*one) for one in zip(points, normals, mask, seen, linear, strict=True)]
    spread = torch.stack(
        [_picture(graph.place, colour) for graph, colour in zip(graphs, _solve(graphs), strict=True)]
    )  # (B, 6, 3, H, H)
    hidden = (mask & ~seen)[:, :, None]
    return torch.where(hidden, srgb_from_linear(spread), made.views), seen[:, :, None].to(made.views.dtype)


def _shown(points: Tensor, normals: Tensor, mask: Tensor) -> Tensor:
    """Return which points (6, H, H, 3) the front view shows squarely enough, (6, H, H) bool."""
    size = points.shape[1]
    right, up, towards = torch.tensor(AXES[0], dtype=points.dtype, device=points.device)
    x = ((points @ right / ORTHO_SCALE + 0.5) * size).long().clamp(0, size - 1)
    y = ((0.5 - points @ up / ORTHO_SCALE) * size).long().clamp(0, size - 1)
    apart = (points[0][y, x] - points).norm(dim=-1)
    square = normals @ towards > MIN_COSINE
    return mask & mask[0][y, x] & (apart < _NEAR_PX * ORTHO_SCALE / size) & square


def _graph(points: Tensor, normals: Tensor, mask: Tensor, seen: Tensor, linear: Tensor) -> _Graph:
    mask, seen, points, normals, linear = (x[:, ::_EVERY, ::_EVERY] for x in (mask, seen, points, normals, linear))
    place, facing, fixed, colour = points[mask], normals[mask], seen[mask], linear[mask].clone()
    if not fixed.any():  # the front shows nothing squarely
        colour[:] = 0.2
    elif not fixed.all():
        nearest = torch.cdist(place[~fixed], place[fixed]).argmin(1)
        colour[~fixed] = colour[fixed][nearest]
    count = min(_NEIGHBOURS + 1, len(place))
    beside = torch.cdist(place, place).topk(count, largest=False).indices[:, 1:]
    beside = F.pad(beside, (0, _NEIGHBOURS + 1 - count))
    weight = ((facing[beside] * facing[:, None]).sum(-1) > _SAME_SIDE).to(colour.dtype)
    return _Graph(mask, colour, fixed, beside, weight / weight.sum(1, keepdim=True).clamp_min(1))


def _solve(graphs: list[_Graph]) -> list[Tensor]:
    """Return the colours (P, 3) of each graph's points; all graphs at once."""
    counts = [len(graph.colour) for graph in graphs]
    starts = torch.tensor([0, *counts]).cumsum(0).tolist()
    beside = torch.cat([graph.beside + start for graph, start in zip(graphs, starts, strict=False)])
    colour, fixed, weight = (torch.cat([getattr(g, name) for g in graphs]) for name in ("colour", "fixed", "weight"))
    moves = (~fixed & (weight.sum(1) > 0))[:, None]
    for _ in range(_STEPS):
        colour = torch.where(moves, torch.einsum("pk,pkc->pc", weight, colour[beside]), colour)
    return list(colour.split(counts))


def _picture(place: Tensor, colour: Tensor) -> Tensor:
    """Return views (6, 3, H, H) of the points' colours, continued where there is none."""
    known = place[:, None].to(colour.dtype)  # (6, 1, h, h)
    values = torch.zeros(*place.shape, 3, dtype=colour.dtype, device=colour.device)
    values[place] = colour
    values = torch.cat([values.movedim(-1, 1), known], dim=1)
    wide = F.avg_pool2d(values, 5, 1, 2) * 1e-3  # where no point is next to a pixel
    blurred = F.interpolate(values + wide, scale_factor=_EVERY, mode="bilinear")
    return blurred[:, :3] / blurred[:, 3:].clamp_min(1e-6)
