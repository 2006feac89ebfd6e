"""Small gaps of a model's maps → those that are edges, as the panorama shows.

A model's maps are soft: where a surface ends in them lies a pixel or two beside the true place, and small steps come
and go along one edge, as that of a screen on its wall. Torn there, a surface has ragged outlines, which are seen more
than that it is stretched a little where it isn't torn.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from . import grid, planes
from .layers import Layer, Links

#: Smallest difference of neighbours that is an edge in the panorama, sRGB; the smallest share of the largest one beside
#: it, and how many pixels away that may be.
_LEAST, _SHARE, _WITHIN = 0.03, 0.5, 3
#: Width in pixels of the squares in which the links of a gap are judged together, so that an edge is torn throughout or
#: not at all, and the share of them that must lie on edges of the panorama.
_TOGETHER, _SUPPORT = 15, 0.6
#: The neighbours whose links are known.
_SIDES = ((0, 1), (1, 0))


def joined(front: Layer, links: Links, rays: np.ndarray, slack: float, picture: np.ndarray) -> Links:
    """Return the links of a layer with small gaps closed, unless the panorama (H, W, 3), sRGB, has an edge there.

    `links`: those of `front`. `slack`: largest difference between the inverses of the distances of both sides of a gap
    that is small, in the inverse of their unit; parallax is proportional to it.
    """
    small = [_small(front, linked, side, rays, slack) for linked, side in zip(links, _SIDES, strict=True)]
    shown = [some & _shown(picture, side) for some, side in zip(small, _SIDES, strict=True)]
    edge = _around(shown) > _SUPPORT * _around(small)
    return Links(*(linked | (some & ~edge) for linked, some in zip(links, small, strict=True)))


def _small(front: Layer, linked: np.ndarray, side: tuple[int, int], rays: np.ndarray, slack: float) -> np.ndarray:
    """Return where a surface is torn from its neighbour by a small gap, (H, W) bool."""
    torn = ~linked & front.solid & grid.neighbour(front.solid, *side)
    if side[0]:
        torn[-1] = False
    here = np.flatnonzero(torn)
    there = grid.neighbour_index(here, torn.shape, *side)
    flat_rays, normals, offsets = rays.reshape(-1, 3), front.normal.reshape(-1, 3), front.offset.ravel()
    border = flat_rays[here] + flat_rays[there]
    border /= np.linalg.norm(border, axis=-1, keepdims=True)
    one, other = (1 / planes.intersect(normals[pixels], offsets[pixels], border) for pixels in (here, there))
    small = np.zeros(torn.shape, bool)
    small.ravel()[here] = np.abs(one - other) <= slack
    return small


def _shown(picture: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Return where a picture (H, W, 3) has an edge between each pixel and its neighbour, (H, W) bool."""
    step = np.abs(grid.neighbour(picture, *side) - picture).max(axis=-1)
    axis, mode = (0, "nearest") if side[0] else (1, "wrap")
    largest = ndimage.maximum_filter1d(step, 2 * _WITHIN + 1, axis=axis, mode=mode)
    return (step > _LEAST) & (step >= _SHARE * largest)


def _around(links: list[np.ndarray]) -> np.ndarray:
    """Return the mean number of links (H, W) bool, to the right and below, around each pixel, (H, W)."""
    total = links[0].astype(np.float32) + links[1]
    for axis, mode in ((0, "nearest"), (1, "wrap")):
        total = ndimage.uniform_filter1d(total, _TOGETHER, axis=axis, mode=mode)
    return total
