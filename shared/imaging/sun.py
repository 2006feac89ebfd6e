"""Separate the sun from a panorama, to replace it with a Sun lamp."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .colour import LUMINANCE
from .sphere import directions, solid_angles

#: The sun includes pixels up to this angle from its centre …
SUN_REACH_RAD = np.radians(5)
#: … that are at least this much brighter than its surroundings; it provides at least this share of all light.
SUN_CONTRAST, SUN_SHARE = 8.0, 0.03


class Sun(NamedTuple):
    """A distant light, with the parameters of Blender's Sun lamp."""

    #: Unit vector towards the sun, (3,) float64, in the frame of sphere.py.
    direction: np.ndarray
    #: Irradiance of a surface that faces it, of the brightest channel: the lamp's strength, in Blender's W/m².
    irradiance: float
    #: Linear RGB of the light, (3,) float64, the largest 1.
    colour: np.ndarray
    #: Angular diameter in radians; the lamp's angle.
    diameter_rad: float


def split_sun(hdr: np.ndarray) -> tuple[np.ndarray, Sun | None]:
    """Return (the panorama without its sun, (H, W, 3) float32; the sun, or None where no single small light dominates).

    `hdr` is (H, W, 3) linear and finite, W = 2 · H. The sun is the brightest light, where it is much
    brighter than its surroundings within SUN_REACH_RAD. Its pixels are reduced to their colour, so that panorama and
    lamp together light every surface as before.
    """
    rest = hdr.astype(np.float32)
    rays, solid = directions(*rest.shape[:2]), solid_angles(*rest.shape[:2])  # [H, W, 3], [H, 1]
    luminance = rest @ LUMINANCE.astype(np.float32)
    if luminance.max() <= 0:
        return rest, None
    power = luminance * solid
    centre = rays[np.unravel_index(luminance.argmax(), luminance.shape)]
    for _ in range(4):
        nearby = rays @ centre > np.cos(SUN_REACH_RAD)
        centre = power[nearby] @ rays[nearby]
        centre /= np.linalg.norm(centre)
    cosine = rays @ centre
    surroundings = (cosine <= np.cos(SUN_REACH_RAD)) & (cosine > np.cos(1.5 * SUN_REACH_RAD))
    level = np.median(rest[surroundings].astype(np.float64), axis=0)  # (3,)
    bright = (cosine > np.cos(SUN_REACH_RAD)) & (luminance > SUN_CONTRAST * (level @ LUMINANCE))

    ray, solid = rays[bright].astype(np.float64), np.broadcast_to(solid, bright.shape)[bright]  # [P, 3], [P]
    excess = np.maximum(rest[bright] - level, 0)  # [P, 3]
    energy = excess * solid[:, None]
    total = energy.sum(axis=0)  # (3,) irradiance of a surface that faces it
    if total @ LUMINANCE <= SUN_SHARE * power.sum(dtype=np.float64):
        return rest, None
    direction = (energy @ LUMINANCE) @ ray
    direction /= np.linalg.norm(direction)
    # A uniform disc of diameter δ has the mean squared angle δ² / 8 about its centre, a square pixel a sixth of its
    # solid angle.
    squared = np.average(((ray - direction) ** 2).sum(axis=-1) + solid / 6, weights=energy @ LUMINANCE)
    rest[bright] = np.minimum(rest[bright], level)
    return rest, Sun(direction, float(total.max()), total / total.max(), float(np.sqrt(8 * squared)))
