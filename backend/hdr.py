"""Rebuild the light that an 8-bit panorama clipped, so that it lights a scene and casts shadows: inverse tone mapping.

An algorithm with a few constants, no network. Its light meter is the ground: what the ground sends back tells how much
light falls on it, whatever was clipped. `reconstruct`, step by step:

1. Linearise (IEC 61966-2-1). A pixel is clipped where all three channels reach `threshold`; any other stays as it is.
2. Meter the ground: G is its geometric mean luminance. The irradiance on it is π · METER · G, log-normally spread by
   SPREAD, and at least what the picture shows: the median of that truncated distribution. The lack was clipped.
3. Label the clipped regions on the sphere. A round one above the ground (its deepest point nearly as deep as in a cap
   of the same solid angle) is a light, sun or lamp: its irradiance goes with METER · G and a power of its size.
4. The rest of the lack goes to all clipped pixels, the more the deeper they lie, up to the mean radiance that skies and
   windows reach; what still remains makes the lights stronger.

METER is the median measured on the eight HDRIs inside bpy; the other constants were chosen on them too, by search
(`bench/hdr.py`).

Light is relative, 1 being the picture's white. In Blender an environment of radiance 1 all around gives a surface the
irradiance π, and a Sun lamp of strength 1 gives a surface that faces it the irradiance 1: a light's irradiance is the
strength of a Sun lamp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.stats import norm

from ..shared.errors import PanoramaError, SettingError
from ..shared.sphere import directions, solid_angles
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
#: z below which a ray sees the ground.
GROUND_Z = -0.2
#: Standard deviation of a light's disc: half the sun's diameter, and two thirds of a pixel in a panorama 1024 wide.
LIGHT_RADIUS_RAD = np.radians(0.25)
#: A sun lamp is split off with everything this near to its centre …
SUN_REACH_RAD = np.radians(5)
#: … where it outshines what is around it by at least this, and makes at least this share of the panorama's light.
SUN_CONTRAST, SUN_SHARE = 8.0, 0.03

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
#: Half a step of an 8-bit sRGB picture above black, so that black has a logarithm.
_BLACK = 0.5 / 255 / 12.92


class Sun(NamedTuple):
    """A distant light, as Blender's Sun lamp has it."""

    #: Unit vector towards the sun, (3,) float64, in the frame of `shared.sphere`.
    direction: np.ndarray
    #: Irradiance of a surface that faces it; the lamp's strength, in Blender's W/m². Of the brightest channel.
    irradiance: float
    #: Linear RGB of the light, (3,) float64, the largest 1.
    colour: np.ndarray
    #: Angular diameter in radians; the lamp's angle.
    diameter_rad: float


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
    clipped = (ldr >= np.float32(threshold)).all(axis=-1)  # (H, W)
    if not clipped.any():
        return linear.astype(np.float32)
    if clipped.all():
        raise PanoramaError("The panorama is white everywhere.", "Raise the threshold, or choose another image.")

    height, width = clipped.shape
    rays = directions(height, width).astype(np.float64)
    weight = np.broadcast_to(solid_angles(height, width), clipped.shape).astype(np.float64)
    luminance = linear @ _LUMINANCE

    # 1. How much light the ground lacks
    on_ground = rays[..., 2] < GROUND_Z
    ground = np.exp(np.average(np.log(np.maximum(luminance[on_ground], _BLACK)), weights=weight[on_ground]))
    level = METER * ground  # of the sky as a whole
    facing_up = weight * np.maximum(rays[..., 2], 0)
    shown = (luminance * facing_up).sum() / np.pi
    lack = np.pi * (_at_least(shown, level) - shown)

    # 2. Regions, as lists of their pixels  # [P]
    label, count = _label(clipped)
    depth_rad = _depth(clipped)
    region = label[clipped] - 1
    ray, solid, deep = rays[clipped], weight[clipped], depth_rad[clipped]
    row = np.nonzero(clipped)[0]
    size = np.bincount(region, solid, count)  # [R] steradians
    deepest = np.zeros(count)
    np.maximum.at(deepest, region, deep)
    elevation = np.bincount(region, solid * ray[:, 2], count) / size

    # 3. Lights
    roundness = deepest / np.arccos(1 - np.minimum(size / (2 * np.pi), 2))
    trust = np.clip((roundness - ROUND[0]) / (ROUND[1] - ROUND[0]), 0, 1) * np.minimum(size / GLINT_SR, 1) ** 2
    irradiance = LIGHT * level * trust * (size / LIGHT_SIZE_SR) ** LIGHT_POWER
    irradiance[elevation < GROUND_Z] *= ON_GROUND
    centre = _centres(region, row, ray, solid, count, height)
    # A light at the horizon sends the ground nothing; counted as if it did, so that the lack bounds it too.
    climb = np.maximum(centre[:, 2], LOWEST_Z)
    from_lights = irradiance @ climb
    if from_lights > LIGHT_SHARE * lack:
        irradiance *= LIGHT_SHARE * lack / from_lights
        from_lights = LIGHT_SHARE * lack

    # 4. Skies and windows, and the lights again
    profile = deep / np.average(deep, weights=solid)
    # All of it may lie below the horizon, where nothing it sends reaches the ground: a tenth of it counts always.
    reach = max((profile * facing_up[clipped]).sum(), 0.1 * size.sum())
    added = np.clip((lack - from_lights) / reach, 0, max(SKY * level - 1, 0))
    remaining = lack - from_lights - added * reach
    if from_lights > 0:
        irradiance *= min(1 + remaining / from_lights, LIGHT_GROWTH)
    gain = added * profile + sun_strength * _discs(region, ray, solid, centre, irradiance)

    linear[clipped] += gain[:, None]
    return linear.astype(np.float32)


def split_sun(hdr: np.ndarray) -> tuple[np.ndarray, Sun | None]:
    """(the panorama without its sun, (H, W, 3) float32; the sun, or None where no single small light stands out).

    `hdr` is (H, W, 3) linear, W = 2 · H. The sun is the brightest light where, within SUN_REACH_RAD, it outshines its
    surroundings; it is taken off down to their colour, so that panorama and lamp together give every surface the light
    it had.
    """
    height, width = hdr.shape[:2]
    rays, weight = (
        directions(height, width).astype(np.float64),
        np.broadcast_to(solid_angles(height, width), (height, width)),
    )
    light = hdr.astype(np.float64)
    luminance = light @ _LUMINANCE
    centre = rays[np.unravel_index(luminance.argmax(), luminance.shape)]
    for _ in range(4):
        near = rays @ centre > np.cos(SUN_REACH_RAD)
        centre = (luminance * weight)[near] @ rays[near]
        centre /= np.linalg.norm(centre)
    cosine = rays @ centre
    near = cosine > np.cos(SUN_REACH_RAD)
    around = ~near & (cosine > np.cos(1.5 * SUN_REACH_RAD))
    level = np.median(light[around], axis=0)  # (3,)
    excess = np.where(near[..., None], np.maximum(light - level, 0), 0)
    excess[luminance <= SUN_CONTRAST * (level @ _LUMINANCE)] = 0
    energy = excess * weight[..., None]
    total = energy.sum(axis=(0, 1))  # (3,) irradiance of a surface that faces it
    if total @ _LUMINANCE <= SUN_SHARE * (luminance * weight).sum():
        return hdr.astype(np.float32), None
    direction = np.tensordot(energy @ _LUMINANCE, rays, 2)
    direction /= np.linalg.norm(direction)
    # A uniform disc of diameter δ has the mean squared angle δ² / 8 about its centre.
    squared = np.average(2 * (1 - np.minimum(rays @ direction, 1)), weights=energy @ _LUMINANCE)
    sun = Sun(direction, float(total.max()), total / total.max(), float(np.sqrt(8 * squared)))
    return (light - excess).astype(np.float32), sun


def _at_least(shown: float, level: float) -> float:
    """Median of a log-normal distribution about `level`, cut off below `shown`."""
    mean = np.log(max(level, _BLACK))
    # In logarithms of the upper tail, so that it stays exact where the picture shows far more than the meter says.
    upper = norm.logsf((np.log(max(shown, _BLACK)) - mean) / SPREAD)
    return float(np.exp(mean + SPREAD * norm.isf(np.exp(upper - np.log(2)))))


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W) labels 1 … count of the 8-connected regions, across 0°/360° too; 0 elsewhere."""
    label = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=label)
    first, last = label[:, 0], np.pad(label[:, -1], 1)
    pairs = np.concatenate([np.stack([first, last[shift : shift + len(first)]], axis=-1) for shift in range(3)])
    pairs = pairs[(pairs > 0).all(axis=-1)]
    count = int(label.max())
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count + 1, count + 1))
    _, merged = sparse.csgraph.connected_components(graph, directed=False)
    return merged[label], int(merged.max())


def _depth(mask: np.ndarray) -> np.ndarray:
    """(H, W) distance to the edge of the mask, in radians of latitude."""
    height, width = mask.shape
    around = np.pad(mask, ((0, 0), (width // 2, width // 2)), mode="wrap")
    depth = np.empty(around.shape)
    ndimage.distance_transform_edt(around, distances=depth)
    # From pixel centre to pixel centre, so the edge is half a pixel nearer; the deepest point, though, may lie as far
    # from the deepest pixel's centre: a quarter is right on average.
    return (depth[:, width // 2 : -(width // 2)] - 0.25).clip(min=0) * np.pi / height


def _centres(
    region: np.ndarray, row: np.ndarray, ray: np.ndarray, solid: np.ndarray, count: int, height: int
) -> np.ndarray:
    """(R, 3) unit vectors to the regions' middles, where they are widest: the horizon cuts off a low sun's glow."""
    key, inverse = np.unique(region * height + row, return_inverse=True)
    breadth = np.bincount(inverse, solid)
    widest = np.zeros(count)
    np.maximum.at(widest, key // height, breadth)
    share = solid * (breadth[inverse] / widest[region]) ** 6
    centre = np.stack([np.bincount(region, share * ray[:, axis], count) for axis in range(3)], axis=-1)
    return centre / np.linalg.norm(centre, axis=-1, keepdims=True)


def _discs(
    region: np.ndarray, ray: np.ndarray, solid: np.ndarray, centre: np.ndarray, irradiance: np.ndarray
) -> np.ndarray:
    """(P,) radiance of a soft disc in the middle of each region; a surface that faces it gets `irradiance` (R,)."""
    # Of the chord: a cosine would lose the small angles to rounding.
    squared = ((ray - centre[region]) ** 2).sum(axis=-1)
    nearest = np.full(len(centre), np.inf)
    np.minimum.at(nearest, region, squared)  # the middle of a crescent lies outside it
    disc = np.exp((nearest[region] - squared) / (2 * LIGHT_RADIUS_RAD**2))
    return disc * (irradiance / np.bincount(region, disc * solid, len(centre)))[region]
