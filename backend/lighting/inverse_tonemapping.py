"""Rebuild the light that an 8-bit panorama clipped, so that it lights a scene and casts shadows: inverse tone mapping.

`reconstruct`, step by step:

1. Linearise (IEC 61966-2-1). A pixel is clipped where all three channels reach `threshold`; any other stays as it is.
2. Find the clipped regions (`clipped.find`).
3. GLOW gives each the mean radiance that it lost, by what is around it and how the picture is exposed. It becomes the
   brighter, the deeper in the region.
4. LAMP gives round regions, the sun and lamps, more: the irradiance of a small disc in the middle.
5. Discs are as warm as what is close to them, never bluer than white: a sun looks white in a blue sky.

What a picture clipped can only be guessed. GLOW and LAMP were chosen by 92 HDRIs of Poly Haven, clipped in five ways
each (bench/hdr_law.py). On tenths of them that were left out the irradiance is off by 26 % by the median (plain linear
light: 38 %), and by 28 % (40 %) on the eight HDRIs inside bpy, which chose nothing. Most is missed where the sun is
low, or where so much is clipped that the sun can't be told from the sky: both come out too dim.

Light is relative, 1 being the picture's white. In Blender an environment of radiance 1 all around gives a surface the
irradiance π, and a Sun lamp of strength 1 gives a surface that faces it the irradiance 1: a light's irradiance is the
strength of a Sun lamp.
"""

from __future__ import annotations

import numpy as np

from ...shared.imaging.colour import LUMINANCE, linear_from_srgb
from ...shared.protocol.errors import PanoramaError, SettingError
from . import clipped_regions
from .clipped_regions import BLACK, Clipped

#: sRGB value from which on a channel counts as clipped.
THRESHOLD = 0.98

#: Feature → (what it adds to a logarithm, its least and greatest value): of the mean radiance that any region lost …
GLOW = {
    "one": (0.4922, 1, 1),
    "shown": (-1.59, -3.546, -0.07792),
    "median": (0.5202, -5.812, -0.2022),
    "bright": (1.016, -3.523, -0.02214),
    "around": (-0.09085, -3.466, -0.02749),
    "blue": (-6.197, -0.3617, 0.2431),
    "z": (1.561, -0.9099, 0.9814),
    "depth": (0.3998, -5.381, -0.8785),
    "share": (-0.2865, -9.985, -0.01876),
}
#: … and of the irradiance that a round one, a sun or lamp, lost beside that.
LAMP = {
    "one": (2.272, 1, 1),
    "size": (0.7633, -10.6, 0.3434),
    "shown": (-0.4512, -3.546, -0.07792),
    "z": (1.777, -0.9099, 0.9814),
    "ground": (1.533, -5.372, -0.2129),
    "total": (-0.6813, -4.858, 1.561),
}
#: A region counts as round from (0) to (1) here: depth of its deepest point / radius of a cap of its solid angle.
ROUND = (0.65, 0.85)

#: Standard deviation of a light's disc: half the sun's diameter, and two thirds of a pixel in a panorama 1024 wide.
LIGHT_RADIUS_RAD = np.radians(0.25)


def reconstruct(ldr: np.ndarray, *, sun_strength: float = 1.0, threshold: float = THRESHOLD) -> np.ndarray:
    """The light of a clipped panorama, (H, W, 3) float32, linear, 1 being the picture's white.

    `ldr` is (H, W, 3) sRGB in [0, 1], W = 2 · H. `sun_strength` ≥ 0 multiplies the light of suns and lamps (0 leaves
    them out). `threshold` in (0, 1] is the sRGB value from which on a channel counts as clipped: lower it where the sun
    is a grey disc.
    Raises SettingError, or PanoramaError where everything is clipped.
    """
    if not (np.isfinite(sun_strength) and sun_strength >= 0):
        raise SettingError(f"Sun strength is {sun_strength:g}.", "Give 0 or more; 1 is as estimated.")
    if not 0 < threshold <= 1:
        raise SettingError(f"The threshold is {threshold:g}.", "Give more than 0 and at most 1.")
    linear = linear_from_srgb(ldr.astype(np.float64))
    mask = (ldr >= np.float32(threshold)).all(axis=-1)  # (H, W)
    if not mask.any():
        return linear.astype(np.float32)
    if mask.all():
        raise PanoramaError("The panorama is white everywhere.", "Raise the threshold, or choose another image.")
    lights = clipped_regions.find(linear, mask)
    glow, discs = lost(lights)  # [P], [P]
    gain = glow[:, None] + sun_strength * discs[:, None] * _warmth(lights)[lights.region]  # [P, 3]
    linear[mask] += gain
    return linear.astype(np.float32)


def features(lights: Clipped) -> dict[str, np.ndarray]:
    """What GLOW and LAMP go by, (R,) each: logarithms of the light that the picture shows, of the light around the
    region and of its size, the colour close to it, and its place."""
    each = np.ones(len(lights.size))
    picture = {name: each * np.log(getattr(lights, name) + BLACK) for name in ("shown", "ground", "median", "bright")}
    return picture | {
        "one": each,
        "around": np.log(lights.around @ LUMINANCE),
        "blue": (lights.close[:, 2] - lights.close[:, 0]) / lights.close.sum(axis=-1),
        "z": lights.z,
        "depth": np.log(lights.deepest_rad),
        "size": np.log(lights.size),
        "total": each * np.log(lights.size.sum()),
        "share": np.log(lights.size / lights.size.sum()),
    }


def _by(law: dict[str, tuple[float, float, float]], values: dict[str, np.ndarray]) -> np.ndarray:
    return np.exp(sum(weight * values[name].clip(low, high) for name, (weight, low, high) in law.items()))


def lost(lights: Clipped) -> tuple[np.ndarray, np.ndarray]:
    """(radiance of the glow, of the discs) that the clipped pixels lack, (P,) each."""
    values = features(lights)
    mean_depth = np.bincount(lights.region, lights.depth_rad * lights.solid) / lights.size
    glow = (_by(GLOW, values) / mean_depth)[lights.region] * lights.depth_rad
    roundness = np.clip((lights.roundness - ROUND[0]) / (ROUND[1] - ROUND[0]), 0, 1)
    return glow, _discs(lights, roundness * _by(LAMP, values))


def _warmth(lights: Clipped) -> np.ndarray:
    """(R, 3) colour of each region's disc, of luminance 1: that around it, with no more green than red nor more blue
    than green."""
    colour = np.minimum.accumulate(lights.close, axis=-1)
    return colour / (colour @ LUMINANCE)[:, None]


def _discs(lights: Clipped, irradiance: np.ndarray) -> np.ndarray:
    """(P,) radiance of a soft disc in the middle of each region; a surface that faces it gets `irradiance` (R,)."""
    region, centre = lights.region, lights.centre
    # Of the chord: a cosine would lose the small angles to rounding.
    squared = ((lights.ray - centre[region]) ** 2).sum(axis=-1)
    nearest = np.full(len(centre), np.inf)
    np.minimum.at(nearest, region, squared)  # the middle of a crescent lies outside it
    disc = np.exp((nearest[region] - squared) / (2 * LIGHT_RADIUS_RAD**2))
    return disc * (irradiance / np.bincount(region, disc * lights.solid, len(centre)))[region]
