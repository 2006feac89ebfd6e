"""Composite pictures and panoramas: all arrays are (H, W, C) float32, panoramas with W = 2·H, masks (H, W) bool."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

from ...shared.jobs.generate import View
from ..geometry import projection

#: Width of the edge inside a mask over which old and new content blend, as a share of the panorama's height.
FEATHER = 0.01


def paste_picture(panorama: np.ndarray, picture: np.ndarray, view: View) -> np.ndarray:
    """Return the panorama with the original pixels of the picture, which the model has changed."""
    assert view.fov is not None
    canvas, covered = projection.panorama_from_picture(
        picture, len(panorama), view.fov, yaw=view.yaw, pitch=view.pitch, roll=view.roll
    )
    return blend(canvas, panorama, covered) if covered.any() else panorama


def blend(new: np.ndarray, old: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return `new`, with `old` blended in from the edge of the mask inwards, across the seam too.

    Outside the mask the values are meaningless.
    """
    if mask.all():  # no edge
        return new
    height, width = mask.shape
    reach = math.ceil(FEATHER * height)
    padded = np.pad(mask, ((0, 0), (reach, reach)), mode="wrap")
    distance = np.asarray(distance_transform_edt(padded))[:, reach : reach + width]
    # In the middle of the thinnest mask `new` still has the full weight.
    over = min(FEATHER * height, distance.max())
    weight = np.minimum(distance / over, 1)[..., None].astype(np.float32)
    # Not old + weight · (new − old), which rounds dark new values off where old is a bright sun.
    return (1 - weight) * old + weight * new


def fill_from_nearest(panorama: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the panorama with every unknown pixel replaced by the nearest known one, across the seam too."""
    width = known.shape[1]
    padded = np.concatenate([known] * 3, axis=1)
    nearest = np.asarray(distance_transform_edt(~padded, return_distances=False, return_indices=True))
    rows, columns = nearest[:, :, width : 2 * width]
    return panorama[rows, columns % width]
