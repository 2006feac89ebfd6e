"""A folder's or a model's maps of a panorama → those that light is measured with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...shared.imaging.colour import linear_from_srgb
from ..io import panoramas
from ..scene import sky
from .solve import Maps

#: The maps that light is measured with, and the height to perceive them at: larger ones don't measure it better.
NAMES, HEIGHT = ("distance", "normal", "albedo"), 128
#: Metallic from which a surface is a mirror, and no light meter.
_METAL = 0.5
#: The sky is searched for in a distance map of at most this many rows: its details don't matter for light.
_ROWS = 256


def light_maps(maps: Mapping[str, np.ndarray]) -> Maps | None:
    """Return the maps that `solve.reconstruct` needs, or None where one of distance, normal and albedo is missing.

    `maps`: name → (H, W, channels), as in shared.maps, of any sizes.
    """
    if not maps.keys() >= set(NAMES):
        return None
    normal, albedo = maps["normal"], linear_from_srgb(maps["albedo"].astype(np.float64))
    distance = maps["distance"][..., 0]
    step = max(1, len(distance) // _ROWS)
    distance = distance[step // 2 :: step, step // 2 :: step]
    distance = np.where(sky.infinite(distance), np.inf, distance)
    if np.isfinite(distance).all():
        beside = panoramas.resize(normal, len(distance))
        beside /= np.maximum(np.linalg.norm(beside, axis=-1, keepdims=True), 1e-6)
        distance = np.where(sky.find(distance, None, beside), np.inf, distance)
    if "metallic" in maps:
        metallic = panoramas.resize(maps["metallic"], len(albedo))
        albedo = np.where(metallic > _METAL, 0, albedo)
    return Maps(albedo, distance, normal)
