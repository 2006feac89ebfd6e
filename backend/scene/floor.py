"""Find the floor: the height of the camera above it gives the scale in metres, its normal what is level."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..io import panoramas
from . import planes, sky
from .planes import Planes

#: Largest angle between a floor's normal and the vertical axis, and between the normals on it, in degrees.
_STEEPEST, _ALIKE = 17.0, 12.0
#: Smallest share of the directions below the horizon that a floor covers.
_SMALLEST = 0.03
#: Relative width of a bin of heights.
_BIN = 0.02
#: A lower surface is the floor if it covers at least this share of what the largest one does (a table, a bed), of the
#: directions that are this steep: a sea is seen farther away, beyond the edge of the terrace that one stands on.
_LOWER, _STEEP = 0.35, np.sin(np.radians(22))
#: Relative distance from the plane up to which pixels belong to it, at least.
_ON_PLANE = 0.005
#: Directions around the camera, and in how many of them the floor must be seen for its tilt to be known.
_SECTORS, _SEEN = 8, 5
#: Smallest number of standard errors by which a tilt is known.
_CERTAIN = 3.0
#: Rows of maps that are enough to find a floor.
_ROWS = 256
#: Largest angle between a wall's normal and a level plane, in degrees; smallest share of the panorama of walls.
_UPRIGHT, _WALLS = 20.0, 0.05
#: If walls are this much more upright without the turn (ratio of the median angles), the floor is a slope.
_SLOPE = 0.5


@dataclass(frozen=True)
class Floor:
    """The plane of the floor."""

    #: Distance of the panorama's place from the plane, in the unit of the distances.
    height: float
    #: Unit normal, upwards, in the panorama's frame: the vertical axis where a tilt isn't known.
    normal: np.ndarray
    #: Angle between the normal and the vertical axis, in degrees.
    tilt_deg: float


def of_maps(distance: np.ndarray, normal: np.ndarray | None) -> Floor | None:
    """Return the floor that a finite distance map (H, W, 1) with unit normals (H, W, 3) shows; None without one.

    The vertical axis is the panorama's own.
    """
    rows = min(len(distance), _ROWS)
    distance = panoramas.resize(distance, rows)[..., 0]
    normal = None if normal is None else panoramas.resize(normal, rows)
    found = planes.fit(distance, normal)
    found = dataclasses.replace(found, solid=~sky.find(distance, None, normal))
    return find(found, np.array([0.0, 0.0, 1.0]))


def find(found: Planes, up: np.ndarray) -> Floor | None:
    """Return the floor: the lowest of the large level surfaces below; None without one.

    `up`: the vertical axis in the panorama's frame, a unit vector (3,). The floor is tilted by at most 17°.
    """
    below = found.solid & (found.rays @ up < 0)
    candidates = below & (found.normal @ up > np.cos(np.radians(_STEEPEST)))
    if not candidates.any():
        return None
    weight = np.sqrt(np.maximum(1 - found.rays[..., 2] ** 2, 0))  # cos(latitude): the solid angle of a pixel
    normal = _main_direction(found.normal[candidates], weight[candidates])
    level = candidates & (found.normal @ normal > np.cos(np.radians(_ALIKE)))
    depth = -found.distance * (found.rays @ normal)
    level &= depth > 0
    if not level.any():  # no two alike, as in noise
        return None
    heights, weights = depth[level], weight[level]
    bins = np.round(np.log(heights) / _BIN).astype(int)
    low = bins.min()
    steep = heights > _STEEP * found.distance[level]
    # A peak may lie across the border of two bins.
    mass, mass_below = (
        np.convolve(np.bincount(bins - low, some), np.ones(3))[1:-1] for some in (weights, weights * steep)
    )
    if mass.max() < _SMALLEST * weight[found.rays @ up < 0].sum():
        return None
    seen = mass_below if steep.any() else mass
    peak = int(np.flatnonzero(seen >= _LOWER * seen.max()).max())
    while peak > 0 and mass[peak - 1] > mass[peak]:  # up its slope
        peak -= 1
    inside = np.abs(bins - low - peak) <= 1
    order = np.argsort(heights[inside])
    cumulated = np.cumsum(weights[inside][order])
    height = float(heights[inside][order][np.searchsorted(cumulated, cumulated[-1] / 2)])
    points = (found.rays * found.distance[..., None])[level].astype(np.float64)
    tilted = _tilted(points, weights.astype(np.float64), normal / -height, up, found.noise)
    if tilted is None or _is_slope(found, weight, tilted.normal, up):
        straight = -found.distance * (found.rays @ up)
        return Floor(float(np.median(straight[level][inside])), up, 0.0)
    return tilted


def _main_direction(normals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the direction that most unit normals (N, 3) have, (3,): a mean, then that of those near it."""
    kept = np.ones(len(normals), bool)
    main = np.zeros(3)
    for limit in (8.0, 5.0, 5.0):
        main = (normals[kept] * weights[kept, None]).sum(axis=0)
        main /= np.linalg.norm(main)
        kept = normals @ main > np.cos(np.radians(limit))
        if not kept.any():
            return main
    return main


def _tilted(points: np.ndarray, weights: np.ndarray, plane: np.ndarray, up: np.ndarray, noise: float) -> Floor | None:
    """Fit the plane m·P = 1 to points (N, 3) near `plane`, an m (3,); None where its tilt isn't known for certain.

    The standard error is that of a jackknife over directions around the camera (Efron, 1982).
    """
    tolerance = max(_ON_PLANE, 3 * noise)
    kept = np.abs(points @ plane - 1) < 2 * _BIN
    for _ in range(5):
        if kept.sum() < 3:
            return None
        plane = _fit(points[kept], weights[kept])
        kept = np.abs(points @ plane - 1) < tolerance
    points, weights = points[kept], weights[kept]
    if len(points) < 3:
        return None
    sector = ((np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
    seen = np.unique(sector)
    if len(seen) < _SEEN:
        return None
    normal = _upwards(plane, up)
    equations = [_equations(points[sector == one], weights[sector == one]) for one in seen]
    products, sums = (np.array(each) for each in zip(*equations, strict=True))
    without = np.array([
        _upwards(_solved(products.sum(0) - product, sums.sum(0) - total), up)
        for product, total in zip(products, sums, strict=True)
    ])  # fmt: skip
    variance = (len(seen) - 1) / len(seen) * ((without - without.mean(axis=0)) ** 2).sum()
    tilt = float(np.arctan2(np.linalg.norm(np.cross(normal, up)), normal @ up))
    if tilt < _CERTAIN * np.sqrt(variance):
        return None
    return Floor(float(1 / np.linalg.norm(plane)), normal, float(np.degrees(tilt)))


def _fit(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return m (3,) of the plane m·P = 1 through points (N, 3)."""
    return _solved(*_equations(points, weights))


def _equations(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal equations of a plane through points (N, 3): the sums of P·Pᵀ and of P."""
    weighted = points * weights[:, None]
    return weighted.T @ points, weighted.sum(axis=0)


def _solved(products: np.ndarray, sums: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(products, sums, rcond=None)[0]


def _upwards(plane: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the unit normal of a plane m·P = 1 that points upwards."""
    return plane / np.linalg.norm(plane) * np.sign(plane @ up)


def _is_slope(found: Planes, weight: np.ndarray, normal: np.ndarray, up: np.ndarray) -> bool:
    """Return whether walls are upright as they are, and wouldn't be if the floor were level: a slope, or a ramp."""
    lean = np.abs(found.normal @ up)
    walls = found.solid & (lean < np.sin(np.radians(_UPRIGHT)))
    if weight[walls].sum() < _WALLS * weight.sum():
        return False
    turned = np.abs(found.normal[walls] @ normal)
    return float(np.median(lean[walls])) < _SLOPE * float(np.median(turned))
