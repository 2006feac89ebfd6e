"""Inverse tone mapping: reconstruct the clipped light of an 8-bit panorama, so that it lights a scene with shadows.

`reconstruct`, step by step:

1. Linearise (IEC 61966-2-1). A pixel is clipped where all three channels reach `threshold`; any other stays as it is.
2. Find the clipped regions (`clipped_regions.find`).
3. GLOW estimates the mean radiance that each lost, from its surroundings and the picture's exposure. The radiance
   increases with depth in the region.
4. LAMP estimates, for round regions (the sun and lamps), the additional irradiance of a small disc in the middle.
5. Discs have the colour of nearby pixels, but never bluer than white: a sun looks white in a blue sky.

GLOW and LAMP are log-linear models fitted to 92 HDRIs of Poly Haven, each clipped in five ways (bench/hdr_fit.py).
The median error of irradiance is 26 % in 10-fold cross-validation (without reconstruction: 38 %), and 28 % (40 %) on
the eight HDRIs inside bpy, which were not used for fitting. Errors are largest where the sun is low, or where so much
is clipped that the sun can't be distinguished from the sky: both are estimated too dim.

Light is relative; 1 is the picture's white. In Blender a uniform environment of radiance 1 gives a surface the
irradiance π, and a Sun lamp of strength 1 gives a surface that faces it the irradiance 1: a light's irradiance is the
strength of a Sun lamp.
"""

from __future__ import annotations

import numpy as np

from ...shared.imaging.colour import LUMINANCE, linear_from_srgb
from ...shared.protocol.errors import PanoramaError, SettingError
from . import clipped_regions
from .clipped_regions import BLACK, Clipped

#: sRGB value at and above which a channel counts as clipped.
THRESHOLD = 0.98

#: Model of the logarithm of the mean radiance lost: feature → (coefficient, its minimum and maximum).
GLOW = {
    "intercept": (0.4922, 1, 1),
    "sky": (-1.59, -3.546, -0.07792),
    "median": (0.5202, -5.812, -0.2022),
    "bright": (1.016, -3.523, -0.02214),
    "surroundings": (-0.09085, -3.466, -0.02749),
    "blue": (-6.197, -0.3617, 0.2431),
    "z": (1.561, -0.9099, 0.9814),
    "depth": (0.3998, -5.381, -0.8785),
    "share": (-0.2865, -9.985, -0.01876),
}
#: Model of the logarithm of the additional irradiance lost by a round region, a sun or lamp.
LAMP = {
    "intercept": (2.272, 1, 1),
    "size": (0.7633, -10.6, 0.3434),
    "sky": (-0.4512, -3.546, -0.07792),
    "z": (1.777, -0.9099, 0.9814),
    "ground": (1.533, -5.372, -0.2129),
    "total": (-0.6813, -4.858, 1.561),
}
#: Range of depth of the deepest point / radius of a cap of equal solid angle in which LAMP's weight goes from 0 to 1.
ROUND = (0.65, 0.85)

#: Standard deviation of a light's disc: half the sun's diameter, and two thirds of a pixel in a panorama 1024 wide.
LIGHT_RADIUS_RAD = np.radians(0.25)


def reconstruct(ldr: np.ndarray, *, sun_strength: float = 1.0, threshold: float = THRESHOLD) -> np.ndarray:
    """Reconstruct the light of a clipped panorama: (H, W, 3) float32, linear; 1 is the picture's white.

    `ldr` is (H, W, 3) sRGB in [0, 1], W = 2 · H. `sun_strength` ≥ 0 multiplies the light of suns and lamps (0: none).
    `threshold` in (0, 1] is the sRGB value at and above which a channel counts as clipped: lower it where the sun is a
    grey disc.
    Raise SettingError, or PanoramaError where everything is clipped.
    """
    linear, mask = clipped(ldr, sun_strength, threshold)
    if not mask.any():
        return linear.astype(np.float32)
    lights = clipped_regions.find(linear, mask)
    glow, disc = lost_radiance(lights)  # [P], [P]
    gain = glow[:, None] + sun_strength * disc[:, None] * warmth(lights)[lights.region]  # [P, 3]
    linear[mask] += gain
    return linear.astype(np.float32)


def clipped(ldr: np.ndarray, sun_strength: float, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear light (H, W, 3) float64, and where it is clipped, (H, W) bool. See `reconstruct`."""
    if not (np.isfinite(sun_strength) and sun_strength >= 0):
        raise SettingError(f"Sun strength is {sun_strength:g}.", "Give 0 or more; 1 is the estimate.")
    if not 0 < threshold <= 1:
        raise SettingError(f"The threshold is {threshold:g}.", "Give more than 0 and at most 1.")
    mask = (ldr >= np.float32(threshold)).all(axis=-1)  # (H, W)
    if mask.all():
        raise PanoramaError("The panorama is white everywhere.", "Raise the threshold, or choose another image.")
    return linear_from_srgb(ldr.astype(np.float64)), mask


def features(lights: Clipped) -> dict[str, np.ndarray]:
    """Return the features of GLOW and LAMP, (R,) each.

    They are logarithms of the picture's light, of the surroundings' luminance and of sizes, nearby colour, and height.
    """
    each = np.ones(len(lights.size))
    picture = {name: each * np.log(getattr(lights, name) + BLACK) for name in ("sky", "ground", "median", "bright")}
    return picture | {
        "intercept": each,
        "surroundings": np.log(lights.surroundings @ LUMINANCE),
        "blue": (lights.nearby[:, 2] - lights.nearby[:, 0]) / lights.nearby.sum(axis=-1),
        "z": lights.z,
        "depth": np.log(lights.deepest_rad),
        "size": np.log(lights.size),
        "total": each * np.log(lights.size.sum()),
        "share": np.log(lights.size / lights.size.sum()),
    }


def _evaluate(model: dict[str, tuple[float, float, float]], values: dict[str, np.ndarray]) -> np.ndarray:
    """Return the prediction of a model, (R,)."""
    return np.exp(sum(weight * values[name].clip(low, high) for name, (weight, low, high) in model.items()))


def lost_radiance(lights: Clipped) -> tuple[np.ndarray, np.ndarray]:
    """Return the estimated lost radiance of the clipped pixels: (of the glow, of the discs), (P,) each."""
    values = features(lights)
    mean_depth = np.bincount(lights.region, lights.depth_rad * lights.solid) / lights.size
    glow = (_evaluate(GLOW, values) / mean_depth)[lights.region] * lights.depth_rad
    roundness = np.clip((lights.roundness - ROUND[0]) / (ROUND[1] - ROUND[0]), 0, 1)
    return glow, discs(lights, roundness * _evaluate(LAMP, values))


def warmth(lights: Clipped) -> np.ndarray:
    """Return (R, 3) colours of the discs, of luminance 1: the nearby colour with green ≤ red and blue ≤ green."""
    colour = np.minimum.accumulate(lights.nearby, axis=-1)
    return colour / (colour @ LUMINANCE)[:, None]


def discs(lights: Clipped, irradiance: np.ndarray) -> np.ndarray:
    """Return the (P,) radiance of a soft disc in the middle of each region, of the given `irradiance` (R,)."""
    region, centre = lights.region, lights.centre
    # From the chord: a cosine would round small angles off.
    squared = ((lights.ray - centre[region]) ** 2).sum(axis=-1)
    nearest = np.full(len(centre), np.inf)
    np.minimum.at(nearest, region, squared)  # the middle of a crescent lies outside it
    disc = np.exp((nearest[region] - squared) / (2 * LIGHT_RADIUS_RAD**2))
    return disc * (irradiance / np.bincount(region, disc * lights.solid, len(centre)))[region]
