"""Rebuild the light that an 8-bit panorama clipped, so that it lights a scene and casts shadows: inverse tone mapping.

`reconstruct`, step by step:

1. Linearise (IEC 61966-2-1). A pixel is clipped where all three channels reach `threshold`; any other stays as it is.
2. Find the clipped regions (`clipped.find`).
3. The ground is the light meter: it sends back a share of what falls on it, whatever was clipped. What the picture
   shows to fall on it is less by what was clipped (`lost`).
4. Give that to the clipped regions, as an even glow, deeper in the region brighter, and as small discs in the middle of
   the round ones: the sun, lamps.
5. Discs are as warm as what surrounds them, never bluer than white: a sun looks white in a blue sky.

The meter is right where the ground is about as dark as it mostly is, too bright over snow or white tiles, and too dim
where the ground lies in shadow.

METER of the eight HDRIs inside bpy is 5.0, 7.9, 8.4, 8.5, 9.2, 9.3, 12.8 and 17.8. It, the powers and the bounds below
were chosen on the eight, by search. `bench/hdr.py` measures the irradiance on them: a median error of 19 %, 40 % for
plain linear light. Chosen on seven and measured on the eighth (`--leave-one-out`): 27 %.

Light is relative, 1 being the picture's white. In Blender an environment of radiance 1 all around gives a surface the
irradiance π, and a Sun lamp of strength 1 gives a surface that faces it the irradiance 1: a light's irradiance is the
strength of a Sun lamp.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from ..shared.colour import LUMINANCE, linear_from_srgb
from ..shared.errors import PanoramaError, SettingError
from . import clipped
from .clipped import BLACK, Clipped

#: sRGB value from which on a channel counts as clipped.
THRESHOLD = 0.98

#: Irradiance on the ground / the irradiance that it sends back up: an albedo of 0.12, as soil, grass and floors have.
METER = 8.5
#: Standard deviation of the logarithm of METER over scenes.
SPREAD = 0.35
#: Irradiance of a light of LIGHT_SIZE_SR steradians, as a multiple of the irradiance / π on the ground, and the power
#: of its size that it follows: large lights are not much stronger, what is clipped is mostly the glare around them.
LIGHT, LIGHT_SIZE_SR, LIGHT_POWER = 2.0, 0.01, 0.5
#: At most this share of the lack comes from lights at first; what remains makes them grow at most so many times.
LIGHT_SHARE, LIGHT_GROWTH = 0.5, 5.0
#: Lights lower than this z count as this high.
LOWEST_Z = 0.2
#: A region counts as round from (0) to (1) here: depth of its deepest point / radius of a cap of its solid angle.
ROUND = (0.65, 0.85)
#: Smaller regions than this are glints more than lights, in steradians (a disc of 2°).
GLINT_SR = 1e-3
#: Lights whose mean z is below this lie on the ground: mostly reflections, and this is their weight.
GROUND_Z, ON_GROUND = -0.2, 0.05
#: Most mean radiance of clipped skies and windows, as a multiple of the irradiance / π on the ground.
SKY = 1.5

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
    lights = clipped.find(linear, mask)
    glow, discs = lost(lights)  # [P], [P]
    gain = glow[:, None] + sun_strength * discs[:, None] * _warmth(lights)[lights.region]  # [P, 3]
    linear[mask] += gain
    return linear.astype(np.float32)


def lost(lights: Clipped) -> tuple[np.ndarray, np.ndarray]:
    """(radiance of the glow, of the discs) that the clipped pixels lack, (P,) each.

    1. The irradiance on the ground is METER times what the ground sends back, log-normally spread by SPREAD, and at
       least what the picture shows: the median of that truncated distribution. The lack was clipped.
    2. A round region above the ground (its deepest point nearly as deep as in a cap of the same solid angle) is a
       light: its irradiance goes with the ground's and a power of its size.
    3. The rest of the lack goes to all clipped pixels, the more the deeper they lie, up to the mean radiance that skies
       and windows reach; what still remains makes the lights stronger, up to LIGHT_GROWTH.
    """
    level = METER * lights.ground  # mean radiance above the ground
    lack = np.pi * (_at_least(lights.shown, level) - lights.shown)
    size, solid = lights.size, lights.solid

    roundness = np.clip((lights.roundness - ROUND[0]) / (ROUND[1] - ROUND[0]), 0, 1)
    irradiance = LIGHT * level * roundness * np.minimum(size / GLINT_SR, 1) ** 2 * (size / LIGHT_SIZE_SR) ** LIGHT_POWER
    irradiance[lights.z < GROUND_Z] *= ON_GROUND
    # A light at the horizon sends the ground nothing; counted as if it did, so that the lack bounds it too.
    climb = np.maximum(lights.centre[:, 2], LOWEST_Z)
    from_lights = irradiance @ climb
    if from_lights > LIGHT_SHARE * lack:
        irradiance *= LIGHT_SHARE * lack / from_lights
        from_lights = LIGHT_SHARE * lack

    profile = lights.depth_rad / np.average(lights.depth_rad, weights=solid)
    # All of it may lie below the horizon, where nothing it sends reaches the ground: a tenth of it counts always.
    reach = max((profile * solid * np.maximum(lights.ray[:, 2], 0)).sum(), 0.1 * size.sum())
    added = np.clip((lack - from_lights) / reach, 0, max(SKY * level - 1, 0))
    remaining = lack - from_lights - added * reach
    if from_lights > 0:
        irradiance *= min(1 + remaining / from_lights, LIGHT_GROWTH)
    return added * profile, _discs(lights, irradiance)


def _warmth(lights: Clipped) -> np.ndarray:
    """(R, 3) colour of each region's disc, of luminance 1: that around it, with no more green than red nor more blue
    than green."""
    colour = np.minimum.accumulate(lights.around, axis=-1)
    return colour / (colour @ LUMINANCE)[:, None]


def _at_least(shown: float, level: float) -> float:
    """Median of a log-normal distribution about `level`, cut off below `shown`."""
    mean = np.log(max(level, BLACK))
    # In logarithms of the upper tail, so that it stays exact where the picture shows far more than the meter says.
    upper = norm.logsf((np.log(max(shown, BLACK)) - mean) / SPREAD)
    return float(np.exp(mean + SPREAD * norm.isf(np.exp(upper - np.log(2)))))


def _discs(lights: Clipped, irradiance: np.ndarray) -> np.ndarray:
    """(P,) radiance of a soft disc in the middle of each region; a surface that faces it gets `irradiance` (R,)."""
    region, centre = lights.region, lights.centre
    # Of the chord: a cosine would lose the small angles to rounding.
    squared = ((lights.ray - centre[region]) ** 2).sum(axis=-1)
    nearest = np.full(len(centre), np.inf)
    np.minimum.at(nearest, region, squared)  # the middle of a crescent lies outside it
    disc = np.exp((nearest[region] - squared) / (2 * LIGHT_RADIUS_RAD**2))
    return disc * (irradiance / np.bincount(region, disc * lights.solid, len(centre)))[region]
