"""Rebuild the light that an 8-bit panorama clipped, so that it lights a scene and casts shadows: inverse tone mapping.

`reconstruct`, step by step:

1. Linearise (IEC 61966-2-1). A pixel is clipped where all three channels reach `threshold`; any other stays as it is.
2. Find the clipped regions (`clipped.find`). Two estimates say how much light each sends, as an even glow, deeper in
   the region brighter, and as a small disc in its middle: the sun, a lamp.
   The light meter (`_metered`) is the ground, which sends back a share of what falls on it, whatever was clipped: an
   algorithm with a few constants. The regressor (`_learned`) knows the region and the panorama by 30 features: three
   small networks, averaged, fitted on panoramas that we rendered (training/hdr.py).
3. Take between the two: METER_SHARE of the logarithm of their total light, METER_SHAPE of how it is spread. The meter
   is right where the ground is as dark as it mostly is, and far too bright over snow or white tiles; the regressor errs
   less, and rather towards too dim.
4. Discs are as warm as what surrounds them, never bluer than white: a sun looks white in a blue sky.

METER is the median measured on the eight HDRIs inside bpy; the meter's other constants were chosen on them too, by
search; METER_SHARE, METER_SHAPE and DISAGREEMENT on them and on our own held-out scenes. The regressor was fitted
without either. `bench/hdr.py` measures all of it.

Light is relative, 1 being the picture's white. In Blender an environment of radiance 1 all around gives a surface the
irradiance π, and a Sun lamp of strength 1 gives a surface that faces it the irradiance 1: a light's irradiance is the
strength of a Sun lamp.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import norm

from ..shared.errors import PanoramaError, SettingError
from ..shared.sun import LUMINANCE
from . import clipped
from .clipped import BLACK, Clipped
from .exposure import linear_from_srgb

#: sRGB value from which on a channel counts as clipped.
THRESHOLD = 0.98

#: Irradiance on the ground / π / its geometric mean luminance: an albedo of 0.1, as asphalt, grass and floors have.
METER = 11.0
#: Standard deviation of the logarithm of METER over scenes.
SPREAD = 0.4
#: Irradiance of a light of LIGHT_SIZE_SR steradians, in units of METER · G, and the power of its size that it follows.
LIGHT, LIGHT_SIZE_SR, LIGHT_POWER = 2.0, 0.01, 0.7
#: At most this share of the lack comes from lights at first; what remains makes them grow at most so many times.
LIGHT_SHARE, LIGHT_GROWTH = 0.5, 10.0
#: Lights lower than this z count as this high.
LOWEST_Z = 0.2
#: A region counts as round from (0) to (1) here: depth of its deepest point / radius of a cap of its solid angle.
ROUND = (0.65, 0.85)
#: Smaller regions than this are glints more than lights, in steradians (a disc of 2°).
GLINT_SR = 1e-3
#: Weight of a light that lies on the ground: mostly a reflection.
ON_GROUND = 0.05
#: Most mean radiance of skies and windows, in units of METER · G.
SKY = 2.0

#: Features count at most so many standard deviations from their mean; bounds of the logarithms of radiance and of a
#: disc's irradiance.
LIMIT, RADIANCE, IRRADIANCE = 2.5, (-6.0, 6.0), (-9.0, 6.0)

#: How far the meter counts, from 0 to 1: in the logarithm of the total light, and in how it is spread.
METER_SHARE, METER_SHAPE = 0.5, 0.75
#: At most so many times less light than the meter's counts: the regressor knows few small suns.
DISAGREEMENT = 30.0
#: Least total light of an estimate, so that it has a spread.
TOO_LITTLE = 1e-6

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
    glow, discs = _between(lights, _metered(lights), _learned(lights))  # [P], [P]
    gain = glow[:, None] + sun_strength * discs[:, None] * _warmth(lights)[lights.region]  # [P, 3]
    linear[mask] += gain
    return linear.astype(np.float32)


def _metered(lights: Clipped) -> tuple[np.ndarray, np.ndarray]:
    """(radiance of the glow, of the discs) that the clipped pixels lack, (P,) each, as the ground says.

    1. G is the ground's geometric mean luminance. The irradiance on it is π · METER · G, log-normally spread by SPREAD,
       and at least what the picture shows: the median of that truncated distribution. The lack was clipped.
    2. A round region above the ground (its deepest point nearly as deep as in a cap of the same solid angle) is a
       light: its irradiance goes with METER · G and a power of its size.
    3. The rest of the lack goes to all clipped pixels, the more the deeper they lie, up to the mean radiance that skies
       and windows reach; what still remains makes the lights stronger.
    """
    level = METER * lights.ground  # of the sky as a whole
    lack = np.pi * (_at_least(lights.shown, level) - lights.shown)
    size, solid = lights.size, lights.solid

    roundness = np.clip((lights.roundness - ROUND[0]) / (ROUND[1] - ROUND[0]), 0, 1)
    irradiance = LIGHT * level * roundness * np.minimum(size / GLINT_SR, 1) ** 2 * (size / LIGHT_SIZE_SR) ** LIGHT_POWER
    irradiance[lights.z < clipped.GROUND_Z] *= ON_GROUND
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


@cache
def _networks() -> dict[str, np.ndarray]:
    """Three networks of one hidden layer side by side; made by training/hdr.py."""
    return load_file(Path(__file__).with_name("hdr.safetensors"))


def _learned(lights: Clipped) -> tuple[np.ndarray, np.ndarray]:
    """(radiance of the glow, of the discs) that the clipped pixels lack, (P,) each, as the regressor says."""
    net = _networks()
    seen = np.clip((lights.features - net["mean"]) / net["deviation"], -LIMIT, LIMIT)
    log = np.tanh(seen @ net["hidden"] + net["hidden_bias"]) @ net["out"] + net["out_bias"]  # [R, 2]
    radiance, irradiance = np.exp(np.clip(log[:, 0], *RADIANCE)), np.exp(np.clip(log[:, 1], *IRRADIANCE))
    deep = np.bincount(lights.region, lights.depth_rad * lights.solid) / lights.size
    return (radiance / deep)[lights.region] * lights.depth_rad, _discs(lights, irradiance)


def _between(
    lights: Clipped, metered: tuple[np.ndarray, np.ndarray], learned: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(radiance of the glow, of the discs), (P,) each, between two estimates of how much there is and where."""
    meter, regressor = (max(float((glow + discs) @ lights.solid), TOO_LITTLE) for glow, discs in (metered, learned))
    total = meter**METER_SHARE * max(regressor, meter / DISAGREEMENT) ** (1 - METER_SHARE)
    glow, discs = (
        total * (METER_SHAPE * a / meter + (1 - METER_SHAPE) * b / regressor)
        for a, b in zip(metered, learned, strict=True)
    )
    return glow, discs


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
