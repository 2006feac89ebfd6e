"""Maps of a model's size → textures as sharp as the panorama, and of what lies hidden behind edges."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..io.panoramas import resize
from .layers import Layer

#: Radius of the windows in pixels of the map, and the variance of the guide below which it counts as flat.
_RADIUS, _EPSILON = 1, 3e-5
#: Octaves of detail that are compared to tell whether a map is blurred, the share of the contrast in coarse detail that
#: a sharp map has in the finest, the factor by which a blurred map is shrunk, and the smallest that is.
_BANDS, _FOLLOWS, _BLURRED, _SMALLEST = 4, 0.75, 3, 128
#: Standard deviation of the smoothing of what is hidden, in pixels of the map.
_SMOOTHING_PX = 2.0
#: Rows that are computed together at the full size.
_ROWS = 256


def sharpen(pixels: np.ndarray, panorama: np.ndarray) -> np.ndarray:
    """Enlarge a map (h, 2·h, C) to the size of its panorama (H, 2·H, 3), along the panorama's edges.

    Both in [0, 1], sRGB for colours. The map is fitted as a linear function of the panorama's colour in each small
    window, at the map's size; the function is applied to the panorama's own pixels. (Guided filter: He et al., ECCV
    2010; fast: arXiv 1505.00996.) What differs from the map at its own size is then added once: more often, noise of
    the map grows. A model's map that is more blurred than its size is fitted at the size that it is sharp at.
    """
    height = len(panorama)
    if height <= len(pixels):
        return resize(pixels, height)
    if len(pixels) >= _SMALLEST and _is_blurred(pixels, resize(panorama, len(pixels))):
        pixels = resize(pixels, len(pixels) // _BLURRED)
    slope, constant = _fit(resize(panorama, len(pixels)), pixels)
    channels = pixels.shape[-1]
    result = np.empty((*panorama.shape[:2], channels), np.float32)
    for top in range(0, height, _ROWS):
        rows = slice(top, min(height, top + _ROWS))
        a = enlarge(slope.reshape(*slope.shape[:2], -1), height, rows)
        b = enlarge(constant, height, rows)
        a = a.reshape(*a.shape[:2], channels, 3)
        result[rows] = np.einsum("hwck,hwk->hwc", a, panorama[rows]) + b
    difference = pixels - resize(result, len(pixels))
    for top in range(0, height, _ROWS):
        rows = slice(top, min(height, top + _ROWS))
        result[rows] += enlarge(difference, height, rows)
    return result.clip(0, 1)


def _is_blurred(pixels: np.ndarray, guide: np.ndarray) -> bool:
    """Return whether a map (h, 2·h, C) follows its guide (h, 2·h, 3) in fine detail much less than in coarse.

    Both are split into bands of an octave each; the regression of the map's band on that of the guide tells how much
    of the guide's contrast the map has there.
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
        contrasts.append(float((band * guiding).sum() / max(float((guiding**2).sum()), 1e-12)))
        pixels, guide = coarse
    return min(contrasts) > 0 and contrasts[0] < _FOLLOWS * max(contrasts)


def _fit(guide: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes (h, w, C, 3) and constants (h, w, C) of pixels ≈ slope · guide + constant, means over windows."""
    size = 2 * _RADIUS + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(
            ndimage.uniform_filter(values, size, axes=(0,), mode="nearest"), size, axes=(1,), mode="wrap"
        )

    guide, pixels = guide.astype(np.float64), pixels.astype(np.float64)
    guide_mean, pixels_mean = mean(guide), mean(pixels)
    variance = mean(guide[..., :, None] * guide[..., None, :]) - guide_mean[..., :, None] * guide_mean[..., None, :]
    covariance = mean(pixels[..., :, None] * guide[..., None, :]) - pixels_mean[..., :, None] * guide_mean[..., None, :]
    slope = np.linalg.solve(variance + _EPSILON * np.eye(3), covariance.swapaxes(-1, -2)).swapaxes(-1, -2)
    constant = pixels_mean - np.einsum("hwck,hwk->hwc", slope, guide_mean)
    return mean(slope), mean(constant)


def enlarge(pixels: np.ndarray, height: int, rows: slice) -> np.ndarray:
    """Return `rows` of a panorama (h, w, C) enlarged linearly to `height`, wrapped at the seam."""
    h, w = pixels.shape[:2]
    factor = height / h
    y = np.clip((np.arange(rows.start, rows.stop) + 0.5) / factor - 0.5, 0, h - 1)
    x = (np.arange(round(w * factor)) + 0.5) / factor - 0.5
    top = np.floor(y).astype(int)
    left = np.floor(x).astype(int)
    fy, fx = (y - top)[:, None, None], (x - left)[None, :, None]
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

    weight = where[..., None].astype(np.float64)
    return blurred(pixels * weight) / np.maximum(blurred(weight), 1e-6)
