"""Distances and normals of a model → distances that agree with both.

A model's normals are far more even than its distances, by which walls swell and sink by several percent; the distances
tell how far a surface is as a whole. Least squares on the logarithms of the distances bring both together: each stays
near its own, and the steps to its neighbours are those of the planes that the normals describe. A step that the
distances show is kept where the panorama has an edge too, or where it is sharp. (Integration of normals with a prior of
depth and weights at discontinuities: Quéau, Durou, Aujol, "Variational Methods for Normal Integration", 2018.)
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

from . import grid, normals
from .planes import Planes

#: Rows at which everything is solved; larger maps start from there.
_ROWS = 256
#: Weight of a pixel's own distance at _ROWS rows, where a step has 1, if the surfaces of the distances differ from the
#: normals by an angle of _USUAL degrees in the better quarter of the pixels: the normals tell the shape of about ten
#: pixels. It is inversely proportional to the square of that angle; up to _FINE degrees, nothing is to be corrected.
_OWN, _USUAL, _FINE = 0.01, 3.5, 2.5
#: Logarithm of a distance's correction from which on it counts less, as one that is wrong.
_WRONG = 0.15
#: Difference of the logarithms of neighbours that is a step; one between two pixels that is none of a model's errors,
#: which are wider; difference of the panorama's sRGB values that is an edge, and pixels within which it lies.
_STEP, _SHARP, _EDGE, _WITHIN = 0.05, 0.04, 0.03, 3
#: Weight of a step that is kept, and cosine between the normals of neighbours up to which there is an edge.
_KEPT, _BENT = 1e-5, 0.5
#: Smallest cosine between ray and normal at which a plane is followed.
_STEEP = 0.1
#: Relative residual at which each round of weights ends, and most iterations of one at _ROWS rows and at more.
_RESIDUALS, _ITERATIONS, _FINER = (0.01, 0.003, 1e-3), 200, 20


def fuse(found: Planes, normal: np.ndarray, picture: np.ndarray | None) -> Planes:
    """Return planes with distances that agree with a model's unit normals (H, W, 3) too.

    `picture`: the panorama, (H, W, 3), sRGB; None: any step may be an edge of it. The sky stays as it is, and so do
    all distances of maps that agree.
    """
    given = grid.dot(normal, normal)[..., None] > 0.5
    maps = _Maps(
        found.distance.astype(np.float32), np.where(given, normal, found.normal), found.rays, found.solid, picture
    )
    step = -(-len(maps.distance) // _ROWS)
    coarse = maps.sampled(step)
    angle = _disagreement(coarse)
    if angle < _FINE:
        return found
    own = _OWN * (_USUAL / angle) ** 2
    correction = _correction(coarse, own, np.zeros(coarse.distance.shape), _ITERATIONS)
    if step > 1:
        correction = _correction(maps, own / step**2, _enlarged(correction, maps.distance.shape), _FINER)
    return dataclasses.replace(found, distance=(maps.distance * np.exp(correction)).astype(np.float32))


class _Maps(NamedTuple):
    """See `Planes`; `picture` is that of `fuse`."""

    distance: np.ndarray
    normal: np.ndarray
    rays: np.ndarray
    solid: np.ndarray
    picture: np.ndarray | None

    def sampled(self, step: int) -> _Maps:
        """Return every `step`th pixel."""
        part = slice(step // 2, None, step)
        picture = None if self.picture is None else self.picture[part, part]
        distance, normal, rays, solid = (array[part, part] for array in self[:4])
        return _Maps(distance, normal, rays, solid, picture)


def _disagreement(maps: _Maps) -> float:
    """Return the angle in degrees between normals and the surfaces of distances, in the better quarter of pixels."""
    surface, _ = normals.of_distance(maps.distance, maps.solid)
    cosine = grid.dot(surface, maps.normal)[maps.solid]
    return float(np.degrees(np.arccos(np.clip(np.quantile(cosine, 0.75), -1, 1))))


def _correction(maps: _Maps, own: float, start: np.ndarray, iterations: int) -> np.ndarray:
    """Return what is added to the logarithms of the distances, (H, W).

    `own`: the weight of a pixel's own distance. `start`: a guess of the correction, (H, W).
    """
    shape, count = start.shape, start.size
    one, other, missing, weight = (
        np.concatenate(each) for each in zip(*(_steps(maps, side) for side in ((0, 1), (1, 0))), strict=True)
    )
    weights = np.concatenate([weight, weight]).astype(np.float32)
    links = sparse.csr_array(
        (weights, (np.concatenate([one, other]), np.concatenate([other, one]))), shape=(count, count)
    )
    degree = np.bincount(one, weight, count) + np.bincount(other, weight, count)
    wanted = np.bincount(one, weight * missing, count) - np.bincount(other, weight * missing, count)
    correction, wanted = start.ravel().astype(np.float32), wanted.astype(np.float32)  # twice as fast as in float64
    for residual in _RESIDUALS:
        # Least squares of log(1 + x²), reweighted: what differs much is wrong. The sky, without links, stays.
        diagonal = (degree + own / (1 + (correction / _WRONG) ** 2)).astype(np.float32)
        correction, _ = linalg.cg(
            sparse.diags_array(diagonal) - links, wanted, correction, rtol=residual, maxiter=iterations,
            M=sparse.diags_array(1 / diagonal),
        )  # fmt: skip
    return correction.reshape(shape)


def _steps(maps: _Maps, side: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the flat indices of pixels and of their neighbours on `side`, how much more the logarithms of their
    distances differ than those of the planes, and the weights of the planes, (N,) each.
    """
    distance, normal, rays, solid = (
        grid.neighbour(array, *side) for array in (maps.distance, maps.normal, maps.rays, maps.solid)
    )
    planes = [
        np.log(np.maximum(-grid.dot(plane, maps.rays), _STEEP) / np.maximum(-grid.dot(plane, rays), _STEEP))
        for plane in (maps.normal, normal)
    ]
    missing = np.log(distance / maps.distance) - (planes[0] + planes[1]) / 2
    axis, mode = (0, "nearest") if side[0] else (1, "wrap")
    sharp = np.abs(missing)
    wide = _WITHIN * np.abs(ndimage.uniform_filter1d(missing, _WITHIN, axis=axis, mode=mode))
    edge = _exceeds(np.maximum(sharp, wide), _STEP)
    if maps.picture is not None:
        shown = np.abs(grid.neighbour(maps.picture, *side) - maps.picture).max(axis=-1)
        shown = ndimage.maximum_filter1d(shown, _WITHIN, axis=axis, mode=mode)
        edge *= np.maximum(_exceeds(shown, _EDGE), _exceeds(sharp, _SHARP) ** 2)
    alike = np.clip((grid.dot(maps.normal, normal) - _BENT) / (1 - _BENT), 0, 1)
    weight = np.maximum((1 - edge) * alike, _KEPT)
    linked = maps.solid & solid
    if side[0]:
        linked[-1] = False
    index = np.arange(distance.size).reshape(distance.shape)
    return index[linked], grid.neighbour(index, *side)[linked], missing[linked], weight[linked]


def _exceeds(value: np.ndarray, scale: float) -> np.ndarray:
    """Return 0 where a value is far below a scale, to 1 where it is far above."""
    return 1 - np.exp(-((value / scale) ** 2))


def _enlarged(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate (h, w) linearly to a larger shape, around the seam too."""
    row, column = ((np.arange(size) + 0.5) * small / size - 0.5 for size, small in zip(shape, array.shape, strict=True))
    wrapped = np.pad(array, ((0, 0), (1, 1)), mode="wrap")
    return ndimage.map_coordinates(wrapped, np.meshgrid(row, column + 1, indexing="ij"), order=1, mode="nearest")
