"""Properties of a clipped panorama: its clipped regions, their surroundings, its exposure.

Regions are 8-connected on the sphere, across 0°/360° too. All sizes are angles, so that regions hardly
depend on the resolution. Light is linear; 1 is the picture's white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from ...shared.imaging.colour import LUMINANCE
from ...shared.imaging.sphere import directions, solid_angles

#: Half a step of an 8-bit sRGB picture above black, added before a logarithm.
BLACK = 0.5 / 255 / 12.92
#: Distances to a region within which pixels are nearby, or belong to its surroundings.
_NEARBY_DEG, _SURROUNDINGS_DEG = 3.0, 12.0
#: White light added to these means, in steradians, so that a region without surroundings has a colour.
_WHITE_SR = 1e-4


class Clipped(NamedTuple):
    """The clipped regions R of a panorama and their pixels P, in the mask's order."""

    #: Of the pixels: region 0 … R − 1, direction, solid angle in steradians, distance to the region's edge in radians.
    region: np.ndarray  # (P,)
    ray: np.ndarray  # (P, 3)
    solid: np.ndarray  # (P,)
    depth_rad: np.ndarray  # (P,)
    #: Of the regions: solid angle in steradians, mean z of its directions, depth of its deepest point in radians, that
    #: / radius of a cap of equal size, unit vector to its middle, mean linear RGB nearby, and of its surroundings.
    size: np.ndarray  # (R,)
    z: np.ndarray  # (R,)
    deepest_rad: np.ndarray  # (R,)
    roundness: np.ndarray  # (R,)
    centre: np.ndarray  # (R, 3)
    nearby: np.ndarray  # (R, 3)
    surroundings: np.ndarray  # (R, 3)
    #: Of the clipped picture: irradiance / π of a surface that faces up, and down (from the ground), median luminance,
    #: and the 90th percentile of luminance above the horizon without the clipped pixels.
    sky: float
    ground: float
    median: float
    bright: float


def find(linear: np.ndarray, mask: np.ndarray) -> Clipped:
    """Find the clipped regions of `linear` (H, W, 3): where `mask` (H, W) is True, somewhere but not everywhere."""
    height, width = mask.shape
    rays = directions(height, width).astype(np.float64)
    weight = np.broadcast_to(solid_angles(height, width), mask.shape).astype(np.float64)
    label, count = _label(mask)

    region, ray, solid, depth = label[mask] - 1, rays[mask], weight[mask], _depth(mask)[mask]  # [P, …]
    size = np.bincount(region, solid, count)  # [R]
    deepest = np.zeros(count)
    np.maximum.at(deepest, region, depth)
    mean_z = np.bincount(region, solid * ray[:, 2], count) / size
    roundness = deepest / np.arccos(1 - np.minimum(size / (2 * np.pi), 2))

    luminance = linear @ LUMINANCE
    sky, ground = (float((luminance * weight * np.maximum(z, 0)).sum()) / np.pi for z in (rays[..., 2], -rays[..., 2]))
    above = (rays[..., 2] > 0) & ~mask
    # All pixels above the horizon may be clipped: then all of them are white.
    bright = _quantile(luminance[above], weight[above], 0.9) if above.any() else 1.0
    nearby, surroundings = _mean_colours(linear, label, weight, count)
    centre = _centres(region, np.nonzero(mask)[0], ray, solid, count, height)
    return Clipped(
        region=region, ray=ray, solid=solid, depth_rad=depth, size=size, z=mean_z, deepest_rad=deepest,
        roundness=roundness, centre=centre, nearby=nearby, surroundings=surroundings, sky=sky, ground=ground,
        median=_quantile(luminance.ravel(), weight.ravel(), 0.5), bright=bright,
    )  # fmt: skip


def _quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Return the weighted quantile of `values` at `share`."""
    # numpy.quantile takes weights from NumPy 2 on; Blender 4's Python has 1.
    order = values.argsort()
    total = weight[order].cumsum()
    return float(values[order[np.searchsorted(total, share * total[-1])]])


def _mean_colours(linear: np.ndarray, label: np.ndarray, weight: np.ndarray, count: int) -> list[np.ndarray]:
    """Return (R, 3) mean unclipped colours nearby and of the surroundings; a pixel belongs to its nearest region."""
    height, width = label.shape
    reach = int(np.ceil(_SURROUNDINGS_DEG / 360 * width)) + 1
    padded = np.pad(label, ((0, 0), (reach, reach)), mode="wrap")
    # scipy's stubs don't declare the two arrays returned with `return_indices`.
    away, (row, column) = ndimage.distance_transform_edt(padded == 0, return_indices=True)  # pyright: ignore[reportGeneralTypeIssues]
    away, nearest = (values[:, reach:-reach] for values in (away * 180 / height, padded[row, column] - 1))
    means = []
    for degrees in (_NEARBY_DEG, _SURROUNDINGS_DEG):
        inside = (away > 0) & (away <= degrees)
        colour = [np.bincount(nearest[inside], (linear[..., c] * weight)[inside], count) for c in range(3)]
        solid = np.bincount(nearest[inside], weight[inside], count)[:, None]
        means.append((np.stack(colour, axis=-1) + _WHITE_SR) / (solid + _WHITE_SR))
    return means


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return (H, W) labels 1 … count of the 8-connected regions, across 0°/360° too; 0 elsewhere."""
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
    """Return the (H, W) distance to the edge of the mask, in radians of latitude."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, 0), (width // 2, width // 2)), mode="wrap")
    depth = np.empty(padded.shape)
    ndimage.distance_transform_edt(padded, distances=depth)
    # Measured between pixel centres: the edge is half a pixel nearer, but the deepest point may lie as far from the
    # centre of its pixel; a quarter is right on average.
    return (depth[:, width // 2 : -(width // 2)] - 0.25).clip(min=0) * np.pi / height


def _centres(
    region: np.ndarray, row: np.ndarray, ray: np.ndarray, solid: np.ndarray, count: int, height: int
) -> np.ndarray:
    """Return (R, 3) unit vectors to where the regions are widest: the horizon cuts off a low sun's glow."""
    key, inverse = np.unique(region * height + row, return_inverse=True)
    breadth = np.bincount(inverse, solid)
    widest = np.zeros(count)
    np.maximum.at(widest, key // height, breadth)
    share = solid * (breadth[inverse] / widest[region]) ** 6
    centre = np.stack([np.bincount(region, share * ray[:, axis], count) for axis in range(3)], axis=-1)
    return centre / np.linalg.norm(centre, axis=-1, keepdims=True)
