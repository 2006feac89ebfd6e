"""Light of a scene: lamps that the panorama shows, and the sky beyond what the camera sees of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...shared.imaging import sphere
from ...shared.imaging.colour import LUMINANCE
from ..lighting import exposure

#: Light in units of the exposed panorama (backend/lighting/exposure.py) from which on a pixel shows a source of light.
LAMP = 4.0
#: The sky that isn't seen is at most this many times as bright as the median of what is: it has no second sun.
_BRIGHTEST = 4.0
#: Standard deviation that smooths the sky that isn't seen, as a share of the height: 6°.
_SMOOTHING = 1 / 30


def lamps(light: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return where linear light (H, W, 3) shows a lamp: far brighter than lit surfaces, and not sky (H, W bool)."""
    if not light.any():
        return np.zeros(sky.shape, bool)
    _, record = exposure.expose(light, "linear")
    assert record is not None
    return (light.max(axis=-1) * float(record["exposure"]) > LAMP) & ~sky


def environment(light: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return the light of the whole sky, (H, W, 3) float32, black below the horizon but for what is seen.

    Through a window, the floor sees parts of the sky that the camera doesn't: they are given the colours of the nearest
    sky that it sees. Without any, all is black.
    """
    if not sky.any():
        return np.zeros_like(light, np.float32)
    height, width = sky.shape
    luminance = light @ LUMINANCE
    limit = _BRIGHTEST * float(np.median(luminance[sky]))
    calm = light * np.minimum(1, limit / np.maximum(luminance, 1e-12))[..., None]
    side = width // 2
    padded = np.pad(sky, ((0, 0), (side, side)), mode="wrap")
    nearest = np.zeros((2, *padded.shape), np.int32)
    ndimage.distance_transform_edt(~padded, return_distances=False, return_indices=True, indices=nearest)
    nearest = nearest[:, :, side : side + width]
    filled = calm[nearest[0], (nearest[1] - side) % width]
    for axis, mode in ((0, "nearest"), (1, "wrap")):
        filled = ndimage.gaussian_filter1d(filled, height * _SMOOTHING, axis=axis, mode=mode)
    above = sphere.directions(height, width)[..., 2:] > 0
    return np.where(sky[..., None], light, np.where(above, filled, 0)).astype(np.float32)
