"""Compare a normal map with the surfaces that the distances describe: turn it as a whole, or trust it less.

On a plane, 1 / distance is a linear function of the ray r: 1 / d = m·r, where −m / |m| is the normal towards the
camera. Fitted to the pixels around each, this gives normals that do not depend on the normal map.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...shared.imaging import sphere
from . import grid
from .planes import Planes

#: Radius of the windows as a share of the panorama's height, and in pixels at least.
_RADIUS, _MIN_RADIUS_PX = 1 / 128, 2
#: Most rows that are compared.
_ROWS = 256
#: Pixels nearer to the poles have windows that are much wider than high, in degrees of latitude.
_POLAR = 75.0
#: Share of the surfaces that counts as flat: the pixels whose windows have the smallest residuals.
_FLAT = 0.4
#: Residual up to which a window is flat on exact maps, and as a multiple of the largest of those that are.
_EXACT, _RESIDUAL = 1e-4, 1.5
#: Smallest angle by which normals are turned, and up to which others agree, in degrees.
_SMALLEST, _ALIKE = 0.5, 15.0
#: How much better the normals must fit afterwards (ratio of the median angles), for what share of the flat surfaces at
#: least, and how much of these must face another direction than most: one plane doesn't tell a turn about its normal.
_BETTER, _SUPPORT, _SPREAD = 0.8, 0.5, 0.02
#: Angles between normal and surface from which on the confidence falls from 1, and is 0, in degrees.
_SURE, _UNSURE = 20.0, 60.0


def of_distance(distance: np.ndarray, solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a plane to the distances (H, W) around each pixel where `solid` (H, W).

    Return unit normals towards the camera, (H, W, 3), and the root mean square of the relative residuals, (H, W);
    infinite where a window isn't all solid.
    """
    height, width = distance.shape
    radius = max(_MIN_RADIUS_PX, round(height * _RADIUS))
    rays = sphere.directions(height, width).astype(np.float64)
    inverse = 1 / np.where(solid, distance, 1.0)
    right = np.stack([_mean(rays[..., i] * inverse, radius) for i in range(3)], axis=-1)
    # In its column's own axes, a window holds the same rays as all others of its row.
    frames = sphere.column_frames(width).astype(np.float64)
    turned = _applied(_inverse(_products(height, width, radius))[:, None], _applied(frames, right))
    plane = _applied(frames.swapaxes(1, 2), turned)
    squares = _mean(inverse**2, radius) - grid.dot(plane, right)
    residual = np.sqrt(np.maximum(squares, 0)) / inverse
    whole = _mean(solid.astype(np.float64), radius) > 1 - 1e-6
    length = np.linalg.norm(plane, axis=-1, keepdims=True)
    return -plane / np.maximum(length, 1e-30), np.where(whole, residual, np.inf)


def _applied(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the products of matrices (…, 3, 3) and vectors (…, 3), faster than numpy's einsum does."""
    return np.stack([grid.dot(matrices[..., row, :], vectors) for row in range(3)], axis=-1)


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Return the inverses of matrices (N, 3, 3): LAPACK, called for each, waits for all processors each time."""
    one, two, three = np.moveaxis(matrices, 1, 0)
    adjugate = np.stack([np.cross(two, three), np.cross(three, one), np.cross(one, two)], axis=-1)
    return adjugate / grid.dot(one, adjugate[..., 0])[:, None, None]


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Average (H, W) over the square windows around each pixel."""
    for axis, mode in ((0, "nearest"), (1, "wrap")):
        values = ndimage.uniform_filter1d(values, 2 * radius + 1, axis=axis, mode=mode)
    return values


def _products(height: int, width: int, radius: int) -> np.ndarray:
    """Return the mean of r·rᵀ over the rays in a window of each row, in the axes of its middle column, (H, 3, 3)."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
    longitude = np.arange(-radius, radius + 1) * 2 * np.pi / width
    x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    rays = np.stack([x, y, np.broadcast_to(np.sin(latitude), x.shape)], axis=-1)
    products = np.einsum("hci,hcj->hij", rays, rays) / len(longitude)
    return ndimage.uniform_filter1d(products, 2 * radius + 1, axis=0, mode="nearest")


def _flat(residual: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Return where windows with these residuals are flat, (H, W) bool."""
    if not solid.any():
        return np.zeros(solid.shape, bool)
    return residual <= max(_EXACT, _RESIDUAL * float(np.quantile(residual[solid], _FLAT, method="lower")))


def turn(distance: np.ndarray, normal: np.ndarray, solid: np.ndarray) -> np.ndarray | None:
    """Return the rotation (3, 3) that fits unit normals (H, W, 3) to the flat surfaces of distances (H, W).

    None: they fit, or the surfaces don't tell. `solid` (H, W) bool: not sky. The rotation minimises the sum of the
    angles, so that regions with wrong normals hardly matter. (Kabsch, 1976, with iteratively reweighted least squares.)
    """
    step = -(-len(distance) // _ROWS)
    distance, normal, solid = (array[step // 2 :: step, step // 2 :: step] for array in (distance, normal, solid))
    height, width = distance.shape
    surface, residual = of_distance(distance, solid)
    latitude = np.abs(90 - (np.arange(height) + 0.5) * 180 / height)[:, None]
    given = grid.dot(normal, normal) > 0.5
    chosen = _flat(residual, solid) & given & (latitude < _POLAR)
    if chosen.sum() < 16:
        return None
    area = np.broadcast_to(sphere.solid_angles(height, width), chosen.shape)[chosen].astype(np.float64)
    one, other = normal[chosen].astype(np.float64), surface[chosen]
    before = _angles(one, other)
    rotation, angle = np.eye(3), before
    for _ in range(20):
        rotation = _kabsch(one, other, area / np.maximum(angle, np.radians(_SMALLEST)))
        angle = _angles(one @ rotation.T, other)
    alike = angle < np.radians(_ALIKE)
    spread = np.linalg.svd(np.einsum("n,ni,nj->ij", area * alike, other, other), compute_uv=False)
    turned = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    certain = (area @ alike) > _SUPPORT * area.sum() and spread[1] > _SPREAD * spread.sum()
    better = np.median(angle) < _BETTER * np.median(before)
    return rotation if certain and better and turned > _SMALLEST else None


def _kabsch(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the rotation R that minimises Σ weight · |other − R · one|² over unit vectors (N, 3)."""
    u, _, vt = np.linalg.svd(np.einsum("n,ni,nj->ij", weight, one, other))
    sign = np.sign(np.linalg.det(vt.T @ u.T))
    return vt.T @ np.diag([1, 1, sign]) @ u.T


def _angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the angles between vectors (N, 3) in radians."""
    return np.arctan2(np.linalg.norm(np.cross(one, other), axis=-1), grid.dot(one, other))


def confidence(normal: np.ndarray, found: Planes) -> np.ndarray:
    """Return how far normals (H, W, 3) agree with the surfaces of planes (H, W): from 0 to 1, (H, W) float32.

    With θ, the angle between both, it is (cos θ − cos 60°) / (cos 20° − cos 60°), limited to [0, 1]: a normal map may
    show more relief than the mesh, but no other surface. It is 1 in the sky, and 0 where there is no normal.
    """
    surface = of_mesh(found)
    low, high = np.cos(np.radians((_UNSURE, _SURE)))
    agreement = np.clip((grid.dot(normal, surface) - low) / (high - low), 0, 1)
    return np.where(found.solid, agreement, 1).astype(np.float32)


def shading(normal: np.ndarray, found: Planes, confidence: np.ndarray) -> np.ndarray:
    """Return the normals (H, W, 3) that light sees: those of the mesh, and of the map (H, W, 3) by its confidence."""
    mixed = of_mesh(found) * (1 - confidence[..., None]) + normal * confidence[..., None]
    length = np.linalg.norm(mixed, axis=-1, keepdims=True)
    return np.where(length > 1e-3, mixed / np.maximum(length, 1e-3), found.normal).astype(np.float32)


def of_mesh(found: Planes) -> np.ndarray:
    """Return the normals (H, W, 3) of the mesh that planes (H, W) become."""
    surface, residual = of_distance(found.distance, found.solid)
    return np.where(_flat(residual, found.solid)[..., None], surface, found.normal)
