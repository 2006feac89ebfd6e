"""Maps of a model's size → textures as sharp as the panorama, and of what lies hidden behind edges."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..io import parallel
from ..io.panoramas import resize
from . import guided
from .layers import Layer

#: Penalty of the fit (see guided.py) for sharp and for blurred maps: these tell less about how their detail differs
#: from the panorama's.
_SHARP, _BLURRED = 1e-3, 1e-2
#: How often what differs from the map at its own size is added. Once leaves edges of blurred maps worse than bilinear.
_CORRECTIONS = 2
#: Octaves of detail that are compared to tell whether a map is blurred, the share of the contrast in coarse detail that
#: a sharp map has in the finest, the factor by which a blurred map is shrunk, and the smallest that is.
_BANDS, _FOLLOWS, _SHRUNK, _SMALLEST = 4, 0.75, 3, 128
#: Standard deviation of the smoothing of what is hidden, in pixels of the map.
_SMOOTHING_PX = 2.0


def sharpen(pixels: np.ndarray, panorama: np.ndarray) -> np.ndarray:
    """Enlarge a map (h, 2·h, C) to the size of its panorama (H, 2·H, 3), along the panorama's edges.

    Both in [0, 1], sRGB for colours; see guided.py. A model's map that is more blurred than its size is fitted at the
    size that it is sharp at. What differs from the map at that size is added afterwards.
    """
    height = len(panorama)
    if height <= len(pixels):
        return resize(pixels, height)
    guide, penalty = resize(panorama, len(pixels)), _SHARP
    if len(pixels) >= _SMALLEST and _is_blurred(pixels, guide):
        pixels = resize(pixels, len(pixels) // _SHRUNK)
        guide, penalty = resize(panorama, len(pixels)), _BLURRED
    result = guided.enlarge(pixels, guide, panorama, penalty)
    for _ in range(_CORRECTIONS):
        _correct(result, pixels)
    return result


def _correct(result: np.ndarray, pixels: np.ndarray) -> None:
    """Add to an enlarged map (H, 2·H, C), in place, what differs from the map (h, 2·h, C) at its size.

    No pixel leaves the range of the map around it by that: there are no halos.
    """
    difference = pixels - resize(result, len(pixels))
    height = len(result)
    around = np.pad(np.pad(pixels, ((1, 1), (0, 0), (0, 0)), mode="edge"), ((0, 0), (1, 1), (0, 0)), mode="wrap")
    windows = np.stack([around[y : y + len(pixels), x : x + 2 * len(pixels)] for y in range(3) for x in range(3)])
    lowest, highest = windows.min(0), windows.max(0)
    columns = ((np.arange(2 * height) + 0.5) * len(pixels) // height).astype(int)

    def add(rows: slice) -> None:
        within = columns[rows, None], columns
        low, high = np.minimum(result[rows], lowest[within]), np.maximum(result[rows], highest[within])
        result[rows] = (result[rows] + enlarge(difference, height, rows)).clip(low, high)

    parallel.by_rows(add, height)


def _is_blurred(pixels: np.ndarray, guide: np.ndarray) -> bool:
    """Return whether a map (h, 2·h, C) follows its guide (h, 2·h, 3) in fine detail much less than in coarse.

    Both are split into bands of an octave each. The mean product of their bands, without sign (a sky is the brightest
    in the panorama, and black in an albedo map), tells how much of the guide's contrast the map has there.
    """
    contrasts = []
    if pixels.shape[-1] == 1:
        guide = guide.mean(axis=-1, keepdims=True)
    for _ in range(_BANDS):
        half = len(pixels) // 2
        coarse = [resize(values, half) for values in (pixels, guide)]
        band, guiding = (
            values - enlarge(smooth, len(values), slice(0, len(values)))
            for values, smooth in zip((pixels, guide), coarse, strict=True)
        )
        contrasts.append(float(np.abs(band * guiding).sum() / max(float((guiding**2).sum()), 1e-12)))
        pixels, guide = coarse
    return contrasts[0] < _FOLLOWS * max(contrasts)


def enlarge(pixels: np.ndarray, height: int, rows: slice) -> np.ndarray:
    """Return `rows` of a panorama (h, w, C) enlarged linearly to `height`, wrapped at the seam."""
    h, w = pixels.shape[:2]
    factor = height / h
    y = np.clip((np.arange(rows.start, rows.stop) + 0.5) / factor - 0.5, 0, h - 1)
    x = (np.arange(round(w * factor)) + 0.5) / factor - 0.5
    top = np.floor(y).astype(int)
    left = np.floor(x).astype(int)
    fy, fx = (y - top).astype(np.float32)[:, None, None], (x - left).astype(np.float32)[None, :, None]
    below = np.minimum(top + 1, h - 1)
    lines = pixels[top] * (1 - fy) + pixels[below] * fy
    return (lines[:, left % w] * (1 - fx) + lines[:, (left + 1) % w] * fx).astype(np.float32)


def nearest(pixels: np.ndarray, height: int) -> np.ndarray:
    """Resample a map (h, 2·h, …) to (height, 2·height, …) without mixing pixels."""
    rows = (np.arange(height) + 0.5) * len(pixels) // height
    columns = (np.arange(2 * height) + 0.5) * len(pixels) // height
    return pixels[rows.astype(int)[:, None], columns.astype(int)]


def continued(pixels: np.ndarray, hidden: Layer) -> np.ndarray:
    """Return a map (h, 2·h, C) for the layer `hidden` (H, W), at its size.

    Each pixel has the colour of the pixel that it continues, smoothed over the layer, and spread over those around it.
    """
    size = hidden.solid.shape
    pixels = resize(pixels, size[0])
    taken = pixels.reshape(-1, pixels.shape[-1])[hidden.source]
    smoothed = _smooth(taken, hidden.solid)
    if not hidden.solid.any():
        return smoothed.astype(np.float32)
    nearest = np.zeros((2, *size), np.int32)
    ndimage.distance_transform_edt(~hidden.solid, return_distances=False, return_indices=True, indices=nearest)
    return smoothed[nearest[0], nearest[1]].astype(np.float32)


def _smooth(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Average pixels (H, W, C) over those near them in the mask `where` (H, W)."""

    def blurred(values: np.ndarray) -> np.ndarray:
        for axis, mode in ((0, "nearest"), (1, "wrap")):
            values = ndimage.gaussian_filter1d(values, _SMOOTHING_PX, axis=axis, mode=mode)
        return values

    weight = where[..., None].astype(np.float32)
    return blurred(pixels * weight) / np.maximum(blurred(weight), 1e-6)
