"""The light that arrives at each surface of a panorama, from all that the panorama shows.

What the other surfaces send is in the picture, so one step gathers all bounces. Most of it varies slowly: it is
gathered at CELLS rows, from a picture of AMBIENT_ROWS. What is far brighter than the mean, as suns and lamps, casts
shadows: it is gathered from up to BRIGHT small pieces at FINE rows. Both are interpolated between points of the same
surface. (Joint bilateral upsampling, Kopf et al., SIGGRAPH 2007.)
"""

from __future__ import annotations

import numpy as np

from ...shared.imaging.colour import LUMINANCE
from ...shared.imaging.sphere import directions, solid_angles
from ..io import panoramas, parallel
from . import transport
from .solve import nearest
from .transport import DistanceTable, Sources

#: Rows of the picture that ambient light comes from, and of the points where it, and bright light, is gathered.
AMBIENT_ROWS, CELLS, FINE = 16, 32, 64
#: Rows of the pieces of bright light, the most that there are, how many times the mean luminance stays ambient, and the
#: share of all light that a piece must have.
PIECE_ROWS, BRIGHT, _REST, _LEAST = 64, 32, 2.0, 0.002
#: Angle in which pieces are of one lamp, and the length of their mean normal from which on it is flat.
_AROUND, _FLAT = np.radians(6), 0.95
#: Deviation, of 1 - cosine between normals, and of the height over a surface relative to the distance, at which points
#: are of other surfaces.
_TURNED, _OFF = 0.05, 0.1
#: Lines that are followed together.
_LINES = 1 << 18


def irradiance(light: np.ndarray, distance: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the irradiance (H, W, 3) float32 of the surfaces of a panorama, W = 2·H; 0 for the sky.

    `light`: the panorama, linear (H, W, 3); `distance`: along the rays (H, W), in any unit, inf for sky; `normal`: unit
    normals towards the camera, (H, W, 3).
    """
    table = DistanceTable(distance)
    pieces = panoramas.resize(light.astype(np.float32), PIECE_ROWS)
    luminance = pieces @ LUMINANCE
    solid = solid_angles(*luminance.shape) * np.ones_like(luminance)
    kept = np.minimum(1, _REST * np.average(luminance, weights=solid) / np.maximum(luminance, 1e-12))
    energy = (luminance * (1 - kept) * solid).ravel()
    bright = (-energy).argsort()[:BRIGHT]
    bright = bright[energy[bright] > _LEAST * (luminance * solid).sum()]
    rest = np.ones_like(luminance)
    rest.ravel()[bright] = kept.ravel()[bright]
    ambient = panoramas.resize(pieces * rest[..., None].astype(np.float32), AMBIENT_ROWS)
    fine = nearest(distance, FINE), nearest(normal, FINE)
    found = _upsampled(_gathered(CELLS, ambient, None, distance, normal, table), *fine)
    if len(bright):
        found += _gathered(FINE, pieces * (1 - rest)[..., None], bright, distance, normal, table)
    return _upsampled(found, distance, normal)


def _gathered(
    rows: int, light: np.ndarray, chosen: np.ndarray | None, distance: np.ndarray, normal: np.ndarray,
    table: DistanceTable,
) -> np.ndarray:  # fmt: skip
    """Return the irradiance (rows, 2·rows, 3) by the pixels of `light` (h, 2·h, 3), those `chosen` or all."""
    height, width, _ = light.shape
    pixels = np.arange(height * width) if chosen is None else chosen
    energy = (light * solid_angles(height, width)[..., None]).reshape(-1, 3)[pixels]
    ray, near, facing = (part[pixels] for part in _surfaces(height, distance, normal))
    facing = np.where(np.isfinite(near)[:, None], facing, 0)
    sources = Sources(ray, near, facing if chosen is None else _of_panels(ray, facing, energy @ LUMINANCE))
    ray, near, facing = _surfaces(rows, distance, normal)
    found = np.zeros((len(ray), 3), np.float32)
    solid = np.flatnonzero(np.isfinite(near))
    count = max(1, _LINES // max(len(pixels), 1))

    def gather(first: int) -> None:
        points = solid[first : first + count]
        place = ray[points] * near[points, None]
        found[points] = transport.arriving(place, facing[points], sources, table) @ energy

    parallel.in_threads(gather, range(0, len(solid), count))
    return found.reshape(rows, 2 * rows, 3)


def _of_panels(ray: np.ndarray, normal: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Return the normals (S, 3) of pieces that shine by the cosine, 0 for those of round lamps, which shine alike in
    all directions: those around them face elsewhere.
    """
    around = (ray @ ray.T > np.cos(_AROUND)) * energy
    mean = around @ normal / around.sum(axis=1, keepdims=True)
    return normal * (np.linalg.norm(mean, axis=1, keepdims=True) > _FLAT)


def _surfaces(rows: int, distance: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rays (N, 3), distances (N,) and normals (N, 3) at the pixels of a panorama of `rows`."""
    rays = directions(rows, 2 * rows).reshape(-1, 3)
    return rays, nearest(distance, rows).ravel(), nearest(normal, rows).reshape(-1, 3)


def _upsampled(cells: np.ndarray, distance: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Interpolate (h, 2·h, 3) at the pixels of `distance` (H, W), between points of the same surface; 0 for the sky."""
    rows, height = len(cells), len(distance)
    ray, near, facing = (part.astype(np.float32) for part in _surfaces(rows, distance, normal))
    solid = np.isfinite(near).reshape(rows, 2 * rows)
    place = (ray * np.where(solid.ravel(), near, 0)[:, None]).reshape(rows, 2 * rows, 3)
    facing = facing.reshape(rows, 2 * rows, 3)
    row, column = ((np.arange(size) + 0.5) * rows / height - 0.5 for size in (height, 2 * height))
    found = np.zeros((*distance.shape, 3), np.float32)

    def interpolate(part: slice) -> None:
        along = np.isfinite(distance[part])
        metres = np.where(along, distance[part], 1).astype(np.float32)
        own = directions(height, 2 * height)[part].astype(np.float32) * metres[..., None]
        own_normal = normal[part].astype(np.float32)
        height_of_own = np.einsum("hwk,hwk->hw", own, own_normal)
        total = np.zeros((*metres.shape, 3), np.float32)
        weights = np.full(metres.shape, 1e-20, np.float32)
        middle_row, middle_column = np.rint(row[part]).astype(int), np.rint(column).astype(int)
        for down in range(-2, 3):
            for right in range(-2, 3):
                y, x = np.clip(middle_row + down, 0, rows - 1)[:, None], ((middle_column + right) % (2 * rows))[None]
                off = (row[part] - middle_row - down)[:, None] ** 2 + (column - middle_column - right)[None] ** 2
                turned = 1 - np.einsum("hwk,hwk->hw", facing[y, x], own_normal)
                over = (np.einsum("hwk,hwk->hw", place[y, x], own_normal) - height_of_own) / metres
                weight = np.exp(-(off / 2 + turned / _TURNED + (over / _OFF) ** 2).astype(np.float32))
                weight = (weight + np.float32(1e-12)) * solid[y, x]
                total += weight[..., None] * cells[y, x]
                weights += weight
        found[part] = np.where(along[..., None], total / weights[..., None], 0)

    parallel.by_rows(interpolate, height)
    return found
