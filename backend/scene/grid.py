"""Neighbours on the pixel grid of a panorama, which wraps at its left and right edge but not at the poles.

A shift is (rows, columns). Beyond the poles, neighbours repeat the first or last row.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

#: Rows that a processor works on at once.
_BAND = 128


def dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the dot products of vectors (…, 3), faster than numpy's einsum does."""
    total = one[..., 0] * other[..., 0]
    total += one[..., 1] * other[..., 1]
    total += one[..., 2] * other[..., 2]
    return total


def neighbour(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the values of (H, W, …) found `rows` below and `columns` to the right of each pixel."""
    if rows:
        index = np.clip(np.arange(len(array)) + rows, 0, len(array) - 1)
        array = array[index]
    return np.roll(array, -columns, axis=1) if columns else array


def padded(array: np.ndarray, reach: int) -> np.ndarray:
    """Return (H, W, …) with `reach` more pixels on all sides, (H + 2·reach, W + 2·reach, …): `shifted` views it."""
    array = np.concatenate([array[:1]] * reach + [array] + [array[-1:]] * reach)
    return np.concatenate([array[:, -reach:], array, array[:, :reach]], axis=1)


def shifted(array: np.ndarray, reach: int, rows: int, columns: int) -> np.ndarray:
    """Return a view of a `padded` array that is equal to `neighbour` of the array before."""
    height, width = len(array) - 2 * reach, array.shape[1] - 2 * reach
    return array[reach + rows :][:height, reach + columns :][:, :width]


def neighbour_index(pixels: np.ndarray, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """Return the flat indices of the neighbours of `pixels` (flat indices) of a panorama (H, W)."""
    height, width = shape
    row, column = np.divmod(pixels, width)
    return np.clip(row + rows, 0, height - 1) * width + (column + columns) % width


def connected(right: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Number the connected regions of pixels from 0, (H·W,); pixels without links are alone.

    `right`, `below`: whether each pixel goes on in its neighbour to the right, and below, (H, W) bool.
    """
    height, width = right.shape
    # An image of the pixels and of the links between them.
    image = np.zeros((2 * height, 2 * width), bool)
    image[::2, ::2], image[::2, 1::2], image[1:-1:2, ::2] = True, right, below[:-1]
    labels = np.empty(image.shape, np.int32)
    count = ndimage.label(image, output=labels)
    labels = labels[::2, ::2] - 1
    around = right[:, -1]
    seam = (np.ones(np.count_nonzero(around), bool), (labels[around, -1], labels[around, 0]))
    matrix = sparse.coo_array(seam, shape=(count, count))
    return csgraph.connected_components(matrix, directed=False)[1][labels.ravel()]


def in_bands(work: Callable[..., tuple[np.ndarray, ...]], reach: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what `work` makes of arrays (H, W, …), computed by bands of rows on all processors.

    `work` gets a band of each array, vectors stored by component, and returns arrays of as many rows. Its results
    depend on at most `reach` rows above and below.
    """
    height = len(arrays[0])

    def band(first: int) -> tuple[np.ndarray, ...]:
        start = max(0, first - reach)
        results = work(*(_by_component(array[start : first + _BAND + reach]) for array in arrays))
        return tuple(result[first - start :][: min(_BAND, height - first)] for result in results)

    with ThreadPoolExecutor() as pool:
        bands = list(pool.map(band, range(0, height, _BAND)))
    return tuple(np.concatenate(parts) for parts in zip(*bands, strict=True))


def _by_component(array: np.ndarray) -> np.ndarray:
    """Return the same array (H, W, …), stored as one image for each component: numpy computes faster with it."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1) if array.ndim > 2 else array


def corner_directions(height: int, width: int) -> np.ndarray:
    """Return unit rays through the corners of the pixels, (H + 1, W + 1, 3) float64, in the frame of `sphere`.

    Corner (i, j) is the top left one of pixel (i, j). The first and last column, and all of a pole, are equal bit for
    bit.
    """
    lon = (0.5 - np.arange(width + 1) / width) * 2 * np.pi
    lon[-1] = lon[0]
    lat = (0.5 - np.arange(height + 1) / height) * np.pi
    cos_lat = np.cos(lat)[:, None]
    cos_lat[[0, -1]] = 0
    up = np.broadcast_to(np.sin(lat)[:, None], (height + 1, width + 1))
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), up], axis=-1)


def pixel(rays: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the pixels that unit rays (N, 3) pass through."""
    lon, lat = np.arctan2(rays[:, 1], rays[:, 0]), np.arcsin(np.clip(rays[:, 2], -1, 1))
    row = np.clip(((0.5 - lat / np.pi) * height).astype(int), 0, height - 1)
    return row, ((0.5 - lon / (2 * np.pi)) * width).astype(int) % width
