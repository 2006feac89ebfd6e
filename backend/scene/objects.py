"""Semantic map and planes → the things in a scene: furniture, lamps, everything that stands or hangs in a room.

A thing is a connected region of one class. The outlines of a predicted map lie beside the true ones: within a few
pixels of an outline, pixels go to the class whose surface they continue. Things of one class, one in front of the
other, are told apart by the step between them, which is larger than those within a thing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from ...shared.imaging import sphere
from ..perception.palette import PALETTE
from . import grid
from .layers import Layer, Links

#: Classes that are no things but what they stand on, hang on or look through.
STUFF = frozenset({"unlabelled", "wall", "floor", "ceiling", "door", "window", "otherstructure"})
#: How far outlines of the map lie from the true ones, in pixels of a map of 1024 × 512.
_BLEED = 3
#: Cosine between the normals of neighbours from which on there is no crease between them.
_SMOOTH = 0.8
#: A narrow strip is no thing if this share of its pixels continues a surface of another class.
_OVERLAP = 0.2
#: Smallest thing, as a share of the sphere, and in pixels.
_SMALLEST, _FEWEST = 8e-5, 12
#: Surfaces of one class that are torn from each other are two things if the step between them is larger than this
#: multiple of the larger one's size; that of a small one beside it may be larger: it is a part (a leg, a handle).
_STEP, _STEP_OF_PART = 0.5, 1.0
#: Share of the size of a thing up to which something is a part of it.
_PART = 0.4


@dataclass(frozen=True)
class Things:
    """The things of a scene, the largest first."""

    #: Number of the thing that each pixel shows, from 1; 0 for the rest, (H, W) int32.
    label: np.ndarray
    #: The class of each thing, numbered where there are several: "chair", "chair 2".
    names: tuple[str, ...]


def find(classes: np.ndarray, front: Layer, links: Links) -> Things:
    """Return the things in a map of classes, (H, W) indices into PALETTE.

    `front`: what the panorama shows; `links`: its own.
    """
    names = list(PALETTE)
    kinds = [index for index, name in enumerate(names) if name not in STUFF]
    kind = np.where(front.solid & np.isin(classes, kinds), classes, 0)
    if not kind.any():
        return Things(np.zeros(kind.shape, np.int32), ())
    smooth = _smooth(links, front.normal)
    kind = _aligned(kind, smooth)
    kind = np.where(_is_sliver(kind, links, smooth), 0, kind)
    angle = sphere.solid_angles(*kind.shape)
    angle = np.broadcast_to(angle, kind.shape).ravel()
    patch = _joined(_patches(kind, links), kind, front.distance, angle)
    size, pixels = np.bincount(patch, angle), np.bincount(patch)
    kept = (size >= _SMALLEST * 4 * np.pi) & (pixels >= _FEWEST)
    kept[patch[kind.ravel() == 0]] = False
    order = np.flatnonzero(kept)[np.argsort(-size[kept], kind="stable")]
    number = np.zeros(len(size), np.int32)
    number[order] = np.arange(1, len(order) + 1)
    label = number[patch].reshape(kind.shape)
    _, first = np.unique(label, return_index=True)
    found = [names[kind.ravel()[pixel]] for pixel in first[-len(order) :]] if len(order) else []
    return Things(label, _numbered(found))


def cut(links: Links, label: np.ndarray) -> Links:
    """Return links without those between pixels of different labels (H, W)."""
    return Links(
        links.right & (label == grid.neighbour(label, 0, 1)), links.below & (label == grid.neighbour(label, 1, 0))
    )


def _connected(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the component of each of `count` nodes, joined by edges from `one` to `other`."""
    matrix = sparse.coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return csgraph.connected_components(matrix, directed=False)[1]


def _numbered(names: list[str]) -> tuple[str, ...]:
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return tuple(numbered)


def _smooth(links: Links, normal: np.ndarray) -> Links:
    """Return the links that cross no crease; unit normals are (H, W, 3)."""
    right, below = (grid.dot(normal, grid.neighbour(normal, *side)) > _SMOOTH for side in ((0, 1), (1, 0)))
    return Links(links.right & right, links.below & below)


def _sides(links: Links) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Return the four neighbours of a pixel, (rows, columns), and where pixels (H, W) are linked to them."""
    return [
        ((0, 1), links.right), ((0, -1), np.roll(links.right, 1, axis=1)),
        ((1, 0), links.below), ((-1, 0), np.pad(links.below[:-1], ((1, 0), (0, 0)))),
    ]  # fmt: skip


def _reach(width: int) -> int:
    """Return how far outlines of the map lie from the true ones, in pixels."""
    return max(1, round(_BLEED * width / 1024))


def _aligned(kind: np.ndarray, smooth: Links) -> np.ndarray:
    """Give pixels near outlines of classes (H, W) to the class whose surface they continue.

    From further inside, both sides grow along the surface, up to where it is torn or creased, or else to the outline.
    """
    reach = _reach(kind.shape[1])
    wrapped = np.pad(kind, ((0, 0), (reach, reach)), mode="wrap")
    size = 2 * reach + 1
    unsure = ndimage.maximum_filter(wrapped, size) != ndimage.minimum_filter(wrapped, size)
    grown = np.where(unsure[:, reach:-reach], -1, kind)
    for _ in range(2 * reach + 1):
        chosen = np.full(kind.shape, -1)
        for side, link in _sides(smooth):
            there = grid.neighbour(grown, *side)
            take = link & (there >= 0) & ((chosen < 0) | (there == kind))
            chosen = np.where(take, there, chosen)
        grown = np.where(grown < 0, chosen, grown)
    return np.where(grown < 0, kind, grown)


def _is_sliver(kind: np.ndarray, links: Links, smooth: Links) -> np.ndarray:
    """Return the pixels (H, W) of narrow strips that lie on a surface of another class: the map overlaps its edge."""
    reach = 2 * _reach(kind.shape[1])
    patch = _patches(kind, links)
    wrapped = np.pad(patch.reshape(kind.shape), ((0, 0), (reach, reach)), mode="wrap")
    size = 2 * reach + 1
    wide = (ndimage.maximum_filter(wrapped, size) == ndimage.minimum_filter(wrapped, size))[:, reach:-reach]
    beside = np.zeros(kind.shape, bool)
    for side, link in _sides(smooth):
        beside |= link & (kind != grid.neighbour(kind, *side))
    sliver = (np.bincount(patch, wide.ravel()) == 0) & (
        np.bincount(patch, beside.ravel()) > _OVERLAP * np.bincount(patch)
    )
    return (kind > 0) & sliver[patch].reshape(kind.shape)


def _patches(kind: np.ndarray, links: Links) -> np.ndarray:
    """Return the number of the surface of one class that each pixel belongs to, (H·W,)."""
    own = cut(links, kind)
    return grid.connected(own.right & (kind > 0), own.below & (kind > 0))


def _joined(patch: np.ndarray, kind: np.ndarray, distance: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Join patches (H·W,) side by side, of one class, that are parts of one thing. `angle`: solid angle, (H·W,)."""
    shape, reach = kind.shape, distance.ravel()
    size = np.sqrt(np.bincount(patch, angle * reach**2))
    pairs, steps = [], []
    for side in ((0, 1), (1, 0)):
        same = (kind > 0) & (kind == grid.neighbour(kind, *side))
        if side[0]:
            same[-1] = False
        here = np.flatnonzero(same)
        there = grid.neighbour_index(here, shape, *side)
        torn = patch[here] != patch[there]
        here, there = here[torn], there[torn]
        pairs.append(np.sort(np.stack([patch[here], patch[there]], axis=1), axis=1))
        steps.append(np.abs(reach[here] - reach[there]))
    pair, step = np.concatenate(pairs), np.concatenate(steps)
    if not len(pair):
        return patch
    # The median step of each pair.
    order = np.lexsort((step, pair[:, 1], pair[:, 0]))
    pair, step = pair[order], step[order]
    start = np.flatnonzero(np.r_[True, (pair[1:] != pair[:-1]).any(axis=1)])
    middle = start + np.diff(start, append=len(pair)) // 2
    pair, step = pair[start], step[middle]
    small, large = np.sort(size[pair], axis=1).T
    joined = step <= np.where(small < _PART * large, _STEP_OF_PART, _STEP) * large
    return _connected(pair[joined, 0], pair[joined, 1], len(size))[patch]
