"""Maps → one plane a pixel: the surface that the pixel shows, continued to both sides.

A pixel's plane is its point (distance along the ray) and a normal. Seen along another ray r, it lies at the distance
n·P / n·r. Planes tell which neighbours show one surface, also at a grazing angle, where ratios of distances can't.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shared.imaging import sphere
from . import grid

#: Cosine between a normal and the ray, below which a plane is seen from its edge and continues nowhere.
MIN_COSINE = 0.02
#: Relative difference up to which the planes of neighbours are one surface on exact maps.
TOLERANCE = 0.02
#: Cosine between ray and normal, below which a surface may be a smeared depth edge.
_STEEP = 0.3
#: Factor on the residual of a given normal, when compared with those of the distances.
_GIVEN_PREFERRED = 0.7
#: Residual up to which pixels are as far as those around them.
_ROUND = 1e-4
_AROUND = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1) if rows or columns]


@dataclass(frozen=True)
class Planes:
    """A plane for each pixel."""

    #: Unit rays through the pixel centres, (H, W, 3).
    rays: np.ndarray
    #: Distance along the ray, (H, W), in any unit; 1 where there is sky.
    distance: np.ndarray
    #: Unit normal towards the camera, (H, W, 3).
    normal: np.ndarray
    #: Whether the normal is a given one, or not almost edge-on, as those of smeared depth edges are, (H, W) bool.
    trusted: np.ndarray
    #: Whether the pixel shows a surface, not sky, (H, W) bool.
    solid: np.ndarray
    #: Standard deviation of the noise of `distance`, relative.
    noise: float

    @property
    def offset(self) -> np.ndarray:
        """n·P, (H, W), negative."""
        return self.distance * grid.dot(self.normal, self.rays)


def intersect(normal: np.ndarray, offset: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the distance (…) along `rays` (…, 3) to planes; infinite where a ray (almost) misses the front."""
    cosine = grid.dot(normal, rays)
    hit = cosine < -MIN_COSINE / 4
    return np.where(hit, offset / np.where(hit, cosine, np.float32(-1)), np.float32(np.inf))


def ratios(normal: np.ndarray, offset: np.ndarray, points: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the distances along the rays to `points` (…, 3) at which planes lie, as multiples of those of the points.

    `least`: of each point, (…), its distance times −MIN_COSINE / 4. As `intersect`, but a plane whose front a ray
    (almost) misses lies at a distance that means nothing.
    """
    return offset / np.minimum(grid.dot(normal, points), least)


def fit(distance: np.ndarray, normal: np.ndarray | None) -> Planes:
    """Fit planes to maps, all of which counts as solid: `distance` (H, W), finite, `normal` (H, W, 3) or None.

    A pixel's normal is the given one, or one of the distances around it: the one that predicts its neighbours best. A
    normal of 0 is none.
    """
    rays = sphere.directions(*distance.shape)
    distance = distance.astype(np.float32)
    if normal is None:
        given = np.zeros(distance.shape, bool)
        chosen = -rays
        residual = np.full(distance.shape, np.inf)
    else:
        length = np.sqrt(grid.dot(normal, normal))[..., None]
        given = has_normal(normal)
        chosen = (normal / np.maximum(length, 1e-9)).astype(np.float32)
        chosen[~given] = -rays[~given]
        chosen = _facing(chosen, rays)
        (residual,) = grid.in_bands(_all_residuals, 1, rays, distance, chosen)
        # Without a normal, what is as far everywhere, as the sky, faces the camera.
        residual[~given & (residual > _ROUND)] = np.inf
    # Where the given normal predicts badly, try those of the distances around.
    usual = float(np.median(residual[given])) if given.any() else 0.0
    poor = np.flatnonzero(residual > max(1e-3, 3 * usual))
    trusted = given | np.isfinite(residual)
    best = residual.ravel()[poor] * _GIVEN_PREFERRED
    for candidate in _normals_from_distance(rays, distance, poor):
        found = _residuals(distance, candidate, rays, poor)
        better = found < best
        chosen.reshape(-1, 3)[poor[better]] = candidate[better]
        residual.ravel()[poor[better]] = best[better] = found[better]
        cosine = -grid.dot(candidate[better], rays.reshape(-1, 3)[poor[better]])
        trusted.ravel()[poor[better]] = cosine > _STEEP
    # The mean of the better half of differences of normal noise is 0.45 times its standard deviation.
    noise = float(np.median(residual)) / 0.45
    return Planes(rays, distance, chosen, trusted, np.ones(distance.shape, bool), noise)


def has_normal(normal: np.ndarray) -> np.ndarray:
    """Return where a map (H, W, 3) has a normal: 0 is none, (H, W) bool."""
    return grid.dot(normal, normal) > 0.25


def _facing(normal: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Turn normals that face away from the camera, or are seen from their edge, just enough to face it."""
    cosine = grid.dot(normal, rays)[..., None]
    turned = normal - rays * np.maximum(cosine + MIN_COSINE, 0)
    return turned / np.linalg.norm(turned, axis=-1, keepdims=True)


def _normals_from_distance(rays: np.ndarray, distance: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """Return candidates (N, 3) for the normals of `pixels` (flat indices), each from its point and two neighbours."""
    shape = distance.shape

    def points(rows: int, columns: int) -> np.ndarray:
        index = grid.neighbour_index(pixels, shape, rows, columns)
        return rays.reshape(-1, 3)[index] * distance.ravel()[index, None]

    centre, right, left, below, above = (points(*side) for side in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)))
    towards = -rays.reshape(-1, 3)[pixels]
    normals = []
    for across, up in (
        (right - left, above - below),
        (right - centre, above - centre),
        (right - centre, centre - below),
        (centre - left, above - centre),
        (centre - left, centre - below),
    ):
        normal = np.cross(across, up)
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        normal = np.where(length > 0, normal / np.maximum(length, 1e-30), towards)
        flipped = grid.dot(normal, towards)[:, None] < 0
        normals.append(_facing(np.where(flipped, -normal, normal), -towards))
    return normals


def _all_residuals(rays: np.ndarray, distance: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray]:
    """Return how badly the planes of all pixels predict their neighbours, (H, W); see `_residuals`."""
    points = rays * distance[..., None]
    offset = grid.dot(normal, points)
    around, least = grid.padded(points, 1), grid.padded(distance * np.float32(-MIN_COSINE / 4), 1)
    differences = np.empty((len(_AROUND), *distance.shape), np.float32)
    for difference, side in zip(differences, _AROUND, strict=True):
        ratio = ratios(normal, offset, grid.shifted(around, 1, *side), grid.shifted(least, 1, *side))
        difference[:] = np.minimum(np.abs(ratio - 1), 1)
    return (np.partition(differences, 3, axis=0)[:4].mean(axis=0),)


def _residuals(distance: np.ndarray, normal: np.ndarray, rays: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return how badly the planes of `pixels` (flat indices) predict their neighbours, (N,).

    `normal`: of these planes, (N, 3). It is the mean of the better half of relative differences.
    """
    flat = rays.reshape(-1, 3)
    offset = distance.ravel()[pixels] * grid.dot(normal, flat[pixels])
    differences = np.empty((len(_AROUND), len(pixels)), np.float32)
    for difference, side in zip(differences, _AROUND, strict=True):
        index = grid.neighbour_index(pixels, distance.shape, *side)
        predicted = intersect(normal, offset, flat[index])
        difference[:] = np.minimum(np.abs(predicted / distance.ravel()[index] - 1), 1)
    return np.partition(differences, 3, axis=0)[:4].mean(axis=0)
