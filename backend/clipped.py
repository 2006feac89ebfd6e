"""What a clipped panorama tells of the lights that it lost: its clipped regions, and features of them and of the rest.

Regions are 8-connected on the sphere, across 0°/360° too. All sizes are angles, so that the same picture at another
size gives much the same features. Luminances are of linear light, 1 being the picture's white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from ..shared.sphere import directions, solid_angles
from ..shared.sun import LUMINANCE

#: z below which a ray sees the ground, and above which the sky or the ceiling.
GROUND_Z, ABOVE_Z = -0.2, 0.2
#: Half a step of an 8-bit sRGB picture above black, so that black has a logarithm.
BLACK = 0.5 / 255 / 12.92

#: Rings around a region, in degrees from its edge.
_RINGS = ((0, 3), (3, 10), (10, 30))
#: Solid angles of pretended surroundings, so that a region without a ring has a mean.
_FEW_SR, _SOME_SR = 3e-4, 0.05
#: Features of a region, then of the panorama; logarithms but for z, shares and spreads.
FEATURES = (
    "solid angle", "z", "roundness", "depth", "ring 0-3°", "ring 3-10°", "ring 10-30°", "blueness of the ring", "share",
    "ground", "light on the ground", "unclipped", "share clipped", "share clipped above", "above", "blueness above",
    "spread above", "spread of the ground", "ground 90 % / 50 %", "ground 50 % / 10 %", "spread",
    "10 %", "25 %", "50 %", "75 %", "90 %", "zenith", "clipped at the zenith", "horizon", "largest region",
)  # fmt: skip


class Clipped(NamedTuple):
    """The clipped regions R of a panorama and their pixels P, in the mask's order."""

    mask: np.ndarray  # (H, W) bool
    #: Of the pixels: region 0 … R − 1, direction, solid angle in steradians, distance to the region's edge in radians.
    region: np.ndarray  # (P,)
    ray: np.ndarray  # (P, 3)
    solid: np.ndarray  # (P,)
    depth_rad: np.ndarray  # (P,)
    #: Of the regions: solid angle in steradians, mean z of its directions, deepest point / radius of a cap as large,
    #: unit vector to its middle, linear RGB around it.
    size: np.ndarray  # (R,)
    z: np.ndarray  # (R,)
    roundness: np.ndarray  # (R,)
    centre: np.ndarray  # (R, 3)
    around: np.ndarray  # (R, 3)
    #: Geometric mean luminance of the ground; irradiance / π that the picture shows to send it.
    ground: float
    shown: float
    features: np.ndarray  # (R, len(FEATURES))


def find(linear: np.ndarray, mask: np.ndarray) -> Clipped:
    """The clipped regions of `linear` (H, W, 3); `mask` (H, W) says what is clipped: something, and not everything."""
    height, width = mask.shape
    rays = directions(height, width).astype(np.float64)
    weight = np.broadcast_to(solid_angles(height, width), mask.shape).astype(np.float64)
    label, count = _label(mask)
    distance_rad = _depth(mask)

    # 1. The regions' shapes
    region, ray, solid, depth = label[mask] - 1, rays[mask], weight[mask], distance_rad[mask]  # [P, …]
    size = np.bincount(region, solid, count)  # [R]
    deepest = np.zeros(count)
    np.maximum.at(deepest, region, depth)
    z = np.bincount(region, solid * ray[:, 2], count) / size
    roundness = deepest / np.arccos(1 - np.minimum(size / (2 * np.pi), 2))

    # 2. What is around them: each pixel that is not clipped belongs to the nearest region
    reach = int(np.ceil(_RINGS[-1][1] / 360 * width)) + 1
    padded = np.pad(mask, ((0, 0), (reach, reach)), mode="wrap")
    # scipy's declarations do not know that `return_indices` makes it two arrays.
    away, (row, column) = ndimage.distance_transform_edt(~padded, return_indices=True)  # pyright: ignore[reportGeneralTypeIssues]
    away = away[:, reach:-reach] * 180 / height
    nearest = label[row[:, reach:-reach], (column[:, reach:-reach] - reach) % width] - 1
    luminance = linear @ LUMINANCE
    log = np.log(np.maximum(luminance, BLACK))
    blueness = np.log(np.maximum(linear[..., 2], 0.002) / np.maximum(linear[..., 0], 0.002))
    unclipped = _mean(log, weight * ~mask)
    rings = []
    for low, high in _RINGS:
        inside = (away > low) & (away <= high)
        area = np.bincount(nearest[inside], weight[inside], count)
        light = np.bincount(nearest[inside], (log * weight)[inside], count)
        rings.append((light + unclipped * _FEW_SR) / (area + _FEW_SR))
    inside = (away > 0) & (away <= _RINGS[1][1])
    area = np.bincount(nearest[inside], weight[inside], count)
    blue = np.bincount(nearest[inside], (blueness * weight)[inside], count) / (area + _FEW_SR)
    inside = (away > 0) & (away <= _RINGS[0][1])
    around = np.stack(
        [np.bincount(nearest[inside], (linear[..., c] * weight)[inside], count) for c in range(3)], axis=-1
    ) + _FEW_SR / 3  # fmt: skip

    # 3. The panorama as a whole
    below, facing_up = rays[..., 2] < GROUND_Z, weight * np.maximum(rays[..., 2], 0)
    ground = _mean(log, weight * below)
    shown = max(float((luminance * facing_up).sum() / np.pi), BLACK)
    above = weight * (~mask & (rays[..., 2] > ABOVE_Z))
    area_above = above.sum() + _SOME_SR
    mean_above = ((above * log).sum() + _SOME_SR * unclipped) / area_above
    zenith, horizon = weight * (rays[..., 2] > 0.7), weight * (np.abs(rays[..., 2]) < 0.2)
    dark, middle, bright = _quantiles(log[below], weight[below], (0.1, 0.5, 0.9))
    whole = np.array([
        ground, np.log(shown), unclipped, np.log(size.sum() / (4 * np.pi)),
        weight[mask & (rays[..., 2] > 0)].sum() / (2 * np.pi),
        mean_above, (above * blueness).sum() / area_above,
        np.sqrt((above * (log - mean_above) ** 2).sum() / area_above),
        np.sqrt(_mean((log - ground) ** 2, weight * below)), bright - middle, middle - dark,
        np.sqrt(_mean((log - unclipped) ** 2, weight * ~mask)),
        *_quantiles(log.ravel(), weight.ravel(), (0.1, 0.25, 0.5, 0.75, 0.9)),
        _mean(log, zenith), _mean(mask, zenith), _mean(log, horizon), np.log(size.max()),
    ])  # fmt: skip
    own = np.stack([np.log(size), z, roundness, np.log(deepest), *rings, blue, np.log(size / size.sum())], axis=-1)
    features = np.concatenate([own, np.broadcast_to(whole, (count, len(whole)))], axis=1)
    centre = _centres(region, np.nonzero(mask)[0], ray, solid, count, height)
    return Clipped(
        mask, region, ray, solid, depth, size, z, roundness, centre, around, float(np.exp(ground)), shown, features
    )


def _mean(value: np.ndarray, weight: np.ndarray) -> float:
    return float((value * weight).sum() / weight.sum())


def _quantiles(value: np.ndarray, weight: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    order = np.argsort(value)
    below = np.cumsum(weight[order])
    return value[order][np.searchsorted(below / below[-1], shares).clip(max=len(order) - 1)]


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
