"""Enlarge maps along the edges of their panorama, by linear functions of its colours that hold on one side of an edge.

A guided filter (He et al., ECCV 2010), fitted at the map's size and applied at the panorama's (fast guided filter,
arXiv 1505.00996), with three changes:

- Each window counts only the pixels whose colours are like its centre's in panorama and map, so that it lies on one
  side of an edge. A pixel of the panorama takes the functions of those neighbours whose colours are like its own (joint
  bilateral upsampling, Kopf et al., SIGGRAPH 2007).
- Colours are fitted as logarithms, and what is fitted is their difference from the panorama: the shading. Where a
  window doesn't tell how the shading varies, it is constant there, and the panorama's detail is that of the albedo.
- The slopes are penalised by their squares, which makes the shading constant, and any other map too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..io import parallel

#: Added to sRGB values before their logarithm: a black sky, and noise in the dark, shall not count without limit.
_DARK = 0.05
#: Root mean square difference, of logarithms in the panorama and of the map's values, at which colours are alike.
_ALIKE_GUIDE, _ALIKE_MAP = 0.25, 0.15
#: The same between a pixel and a neighbour's window, added to the window's own spread; the least weight of a neighbour.
_ALIKE_PIXEL, _LEAST = 0.2, 1e-4
_WINDOW = [(row, column) for row in range(3) for column in range(3)]
#: Rows of the map that a thread computes, and pixels of the panorama that are computed together: as many as fit into a
#: processor's cache.
_ROWS, _PIXELS = 8, 16384


@dataclass(frozen=True)
class Fit:
    """A linear function for each of the map's pixels: value + slope · (guide − mean)."""

    #: Mean of the guide in the window, (3, h, w), and the precision by which a colour belongs to it, (h, w).
    mean: np.ndarray
    precision: np.ndarray
    #: (C, 3, h, w) and (C, h, w): of the logarithm of the shading's inverse for colours, else of the map.
    slope: np.ndarray
    value: np.ndarray


def enlarge(pixels: np.ndarray, guide: np.ndarray, panorama: np.ndarray, penalty: float) -> np.ndarray:
    """Enlarge a map (h, 2·h, C) to the size of its panorama (H, 2·H, 3): (H, 2·H, C) float32 in [0, 1].

    `guide`: the panorama at the map's size. All are in [0, 1]; colours (C = 3) are sRGB. `penalty`: see `fit`.
    """
    return _apply(fit(pixels, guide, penalty), panorama)


def fit(pixels: np.ndarray, guide: np.ndarray, penalty: float) -> Fit:
    """Fit a map (h, w, C) to its guide (h, w, 3).

    `penalty`: the variance of the guide's logarithm in a window below which the guide tells little about the map.
    """
    colours = pixels.shape[-1] == 3
    guide = _logarithm(_planes(guide))
    own = _logarithm(_planes(pixels)) if colours else _planes(pixels)
    both = _padded(np.concatenate([guide, own]))
    (_, height, width), channels = guide.shape, len(own)
    found = Fit(np.empty_like(guide), np.empty_like(guide[0]),
                np.empty((channels, 3, height, width), np.float32), np.empty_like(own))  # fmt: skip

    def solve(rows: slice) -> None:
        means, products = _moments(both[:, rows.start : rows.stop + 2])
        variance, covariance = products[:, :3], products[:, 3:]
        if colours:  # the logarithm of map / guide
            covariance = covariance - variance
            means[3:] -= means[:3]
        penalised = variance + penalty * np.eye(3, dtype=np.float32)[..., None, None]
        slope = _solve(penalised, covariance)
        spread = np.maximum(variance[range(3), range(3)].mean(0), 0)
        found.mean[:, rows], found.value[:, rows] = means[:3], means[3:]
        found.precision[rows] = 1 / (6 * (spread + _ALIKE_PIXEL**2))
        found.slope[:, :, rows] = slope.swapaxes(0, 1)

    parallel.by_rows(solve, height)
    return found


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve symmetric, positive definite systems (3, 3, …) for right sides (3, N, …): return (3, N, …).

    By Cholesky's decomposition, pixel by pixel. numpy.linalg.solve wakes all threads of its BLAS for each pixel, and
    waits for them: minutes, while another program uses the processors.
    """
    lower = np.empty_like(matrix)
    for i in range(3):
        for j in range(i + 1):
            rest = matrix[i, j] - sum(lower[i, k] * lower[j, k] for k in range(j))
            lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
    result = np.empty_like(right)
    for i in range(3):
        result[i] = (right[i] - sum(lower[i, k] * result[k] for k in range(i))) / lower[i, i]
    for i in reversed(range(3)):
        result[i] = (result[i] - sum(lower[k, i] * result[k] for k in range(i + 1, 3))) / lower[i, i]
    return result


def _moments(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means (3 + C, h, w) and covariances (3, 3 + C, h, w) of the windows around all but the outermost pixels.

    `planes`: guide and map, (3 + C, h + 2, w + 2). Covariances are those of the guide with both.
    """
    height, width = planes.shape[1] - 2, planes.shape[2] - 2
    centre = planes[:, 1:-1, 1:-1]
    total = np.zeros((height, width), np.float32)
    means = np.zeros((len(planes), height, width), np.float32)
    products = np.zeros((3, *means.shape), np.float32)
    for row, column in _WINDOW:
        # As a difference from the centre, which keeps its digits.
        other = planes[:, row : row + height, column : column + width] - centre
        squares = other**2
        weight = np.exp(squares[:3].mean(0) / (-2 * _ALIKE_GUIDE**2) + squares[3:].mean(0) / (-2 * _ALIKE_MAP**2))
        total += weight
        weighted = weight * other
        means += weighted
        for product, channel in zip(products, weighted, strict=False):
            product += channel * other
    means /= total
    products = products / total - means[:3, None] * means
    return means + centre, products


def _apply(fit: Fit, panorama: np.ndarray) -> np.ndarray:
    """Apply a fit to its panorama (H, W, 3)."""
    channels, h, w = fit.value.shape
    height, width = panorama.shape[:2]
    down, right = _places(height, h), _places(width, w)
    top, left = np.floor(down).astype(int), np.floor(right).astype(int)
    table = np.concatenate([fit.mean, fit.precision[None], fit.value, fit.slope.reshape(-1, h, w)])
    sides = [(1 - (right - left), left % w), (right - left, (left + 1) % w)]
    step = max(1, _PIXELS // width)
    result = np.empty((height, width, channels), np.float32)

    def row_of(row: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weights and the table's entries for the neighbours to the left and right of each column."""
        return [(weight, table[:, min(max(row, 0), h - 1), columns][:, None]) for weight, columns in sides]

    def fill(first: int) -> None:
        above = row_of(first)
        for row in range(first, min(first + _ROWS, h)):
            below = row_of(row + 1)
            start, stop = np.searchsorted(top, (row, row + 1))
            for begin in range(start, stop, step):
                rows = slice(begin, min(begin + step, stop))
                share = (down[rows] - row)[:, None]
                neighbours = [
                    (part * across, entry)
                    for part, line in ((1 - share, above), (share, below))
                    for across, entry in line
                ]
                result[rows] = _blend(neighbours, panorama[rows], channels)
            above = below

    parallel.in_threads(fill, range(-1, h, _ROWS))
    return result


def _blend(neighbours: list[tuple[np.ndarray, np.ndarray]], panorama: np.ndarray, channels: int) -> np.ndarray:
    """Return the map (R, W, C) at pixels (R, W, 3) by their neighbours: weights (R, W) and the table's (K, 1, W)."""
    guide = _logarithm(_planes(panorama))
    total = np.zeros(guide.shape[1:], np.float32)
    values = np.zeros((channels, *total.shape), np.float32)
    for near, entry in neighbours:
        mean, precision, value = entry[:3], entry[3], entry[4 : 4 + channels]
        slope = entry[4 + channels :].reshape(channels, 3, 1, -1)
        away = guide - mean
        weight = near * (np.exp(-precision * (away**2).sum(0)) + np.float32(_LEAST))
        total += weight
        found = value + slope[:, 0] * away[0]
        found += slope[:, 1] * away[1]
        found += slope[:, 2] * away[2]
        values += weight * found
    values /= total
    if channels == 3:
        values = np.exp(values + guide) - np.float32(_DARK)
    return np.moveaxis(values.clip(0, 1), 0, -1)


def _places(new: int, old: int) -> np.ndarray:
    """Return where the centres of `new` pixels lie among those of `old` pixels, (new,) float32."""
    return ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, C) as (C, H, W) float32."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0), np.float32)


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log(values + np.float32(_DARK))


def _padded(planes: np.ndarray) -> np.ndarray:
    """Add a pixel on each side of (C, H, W), wrapped in the columns."""
    return np.pad(np.pad(planes, ((0, 0), (1, 1), (0, 0)), mode="edge"), ((0, 0), (0, 0), (1, 1)), mode="wrap")
