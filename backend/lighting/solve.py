"""Solve for the light that a clipped panorama lost: the surfaces that it shows are light meters.

A surface of albedo a that shows the radiance L receives about the irradiance π · L / (a + SPECULAR). At some hundred
points of the surfaces, in logarithms and by channel:

    scale · measured irradiance = irradiance of what the picture shows + Σ lost light of the clipped regions

What arrives at a point depends on cosine, visibility and, from near light, on place and distance (transport.py); the
picture's own surfaces are among the sources, so that one bounce is included. Unknown are a factor of all lost light,
one of each region's glow and disc, and `scale`, the error that all albedos have in common. The estimates of
inverse_tonemapping are the priors: where nothing can be measured, they stay. Means and deviations of the priors, and
how much is believed, are fitted to HDRIs and scenes with the starter's maps (bench/prior_fit.py): its albedos are too
high on the whole. Where the picture's own light nearly explains what is measured, too high albedos or shadows hide
what was lost: no disc is solved dimmer than its estimate.
A sun may be anywhere in clipped sky, and of any strength: each region there has a disc, which is hardly bound to its
estimate. Last, all else that the measurements leave uncertain is mostly left out: estimates that nothing confirms are,
more often than not, too bright.
Albedos, shadows and reflections are wrong in places: residuals have Student's distribution, with a width that is found
from them, and together they count as EVIDENCE independent measurements. (Gauss-Newton with iteratively reweighted least
squares.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...shared.imaging.colour import LUMINANCE
from ...shared.imaging.sphere import directions, solid_angles
from ..io import panoramas
from . import clipped_regions, inverse_tonemapping, transport
from .clipped_regions import Clipped
from .inverse_tonemapping import THRESHOLD
from .transport import Sources

#: Rows of the grid of points, and of that of ambient light; number of points, and the fewest that are used.
ROWS, AMBIENT_ROWS, POINTS, FEWEST = 64, 32, 500, 20
#: Rows of maps within a cell of the grid: what is beside a cell doesn't count.
_FINE = 4
#: Regions with factors of their own, those that lost most; the others share one. Pieces of all glows, and of all discs.
REGIONS, PIECES = 12, 240
#: Reflectance of a dielectric's surface, beside its albedo.
SPECULAR = 0.04
#: Vertical part of a level surface's normal, and how many times the light of the brightest tenth of these other
#: surfaces receive at most (a low sun's light is three times as strong on walls); beyond, they shine themselves.
LEVEL, SHINING = 0.7, 3.0
#: Mean and standard deviation of the logarithms of: albedos' common error; the factors of all lost light, of a region's
#: glow, of a disc near by, and of one in the sky.
SCALE, COMMON, GLOW, DISC, SUN = (0.44, 0.44), (-0.16, 0.64), (0.38, 0.48), (-0.6, 0.93), (0.0, 2.0)
#: Least share of its region's glow that a disc in the sky has at prior.
SUN_SHARE = 0.1
#: Share of the lost light that is added where nothing is measured, and the confidence from which on all of it is.
LEAST, TRUSTED = 0.1, 0.63
#: Standard deviations of a channel beside luminance: of albedos, and of a source's colour.
CHANNEL_SCALE, COLOUR = 0.1, 0.2
#: Independent measurements; the residuals' degrees of freedom; the least deviation of residuals that is believed.
EVIDENCE, FREEDOM, EXACT = 8.4, 2.0, 0.005
#: Logarithm of the light measured / the picture's own: up to the first, discs aren't dimmed; from the second on, they
#: are as solved.
HIDDEN, SHOWN = 0.08, 0.38
#: Darkest albedo and radiance that are measured, the flattest view of a surface, and the largest variance of log
#: distances within a cell.
_ALBEDO, _RADIANCE, _FACING, _EVEN = 0.02, 0.004, 0.1, 0.01
#: Steps of the fit at most, and the change of a logarithm that ends it.
_STEPS, _SMALL = 40, 1e-4


class Maps(NamedTuple):
    """Maps of a panorama, each of its own size, W = 2 · H."""

    #: (H, W, 3) linear; 0 where a surface is no light meter (metal).
    albedo: np.ndarray
    #: (H, W), along the rays, in any unit; inf for sky.
    distance: np.ndarray
    #: (H, W, 3) unit normals towards the camera.
    normal: np.ndarray


class Solution(NamedTuple):
    """The light of a panorama."""

    #: (H, W, 3) float32 linear; 1 is the picture's white.
    light: np.ndarray
    #: How much of the lost light's uncertainty the measurements removed, 0 (the estimate alone) to 1 (nothing is lost).
    confidence: float
    #: Number of points measured, and the typical factor (≥ 1) between measured and solved irradiance there.
    points: int
    spread: float
    #: (ROWS, 2 · ROWS) logarithm of solved / measured irradiance at the points, NaN elsewhere.
    residual: np.ndarray


class Points(NamedTuple):
    """N points of surfaces: cell of the grid, place, unit normal, and measured irradiance by channel."""

    cell: np.ndarray  # (N,)
    place: np.ndarray  # (N, 3)
    normal: np.ndarray  # (N, 3)
    measured: np.ndarray  # (N, 3)


class Unknowns(NamedTuple):
    """What is solved for: K parts of the lost light, each a region's glow or its disc."""

    sources: Sources  # S pieces
    #: Of the pieces: lost radiance × solid angle by channel (S, 3) at prior, and the unknown that each belongs to (S,).
    energy: np.ndarray
    unknown: np.ndarray
    #: (K,) whether an unknown is a disc, and whether it is far away; (P,) the unknown of each clipped pixel's glow, and
    #: of its disc.
    is_disc: np.ndarray
    is_sky: np.ndarray
    of_glow: np.ndarray
    of_disc: np.ndarray


def reconstruct(
    ldr: np.ndarray, maps: Maps | None, *, sun_strength: float = 1.0, threshold: float = THRESHOLD
) -> Solution:
    """Reconstruct the light of a clipped panorama (H, W, 3), sRGB in [0, 1], by its maps.

    Where nothing is clipped, the picture's linear light is returned. Without maps, or where they show fewer than FEWEST
    points that can be measured, the light is that of `inverse_tonemapping.reconstruct`, whose parameters and errors
    these are, and the confidence 0.
    """
    linear, mask = inverse_tonemapping.clipped(ldr, sun_strength, threshold)
    return recover(linear, mask, maps, sun_strength)


def recover(linear: np.ndarray, mask: np.ndarray, maps: Maps | None, sun_strength: float = 1.0) -> Solution:
    """Do the same for linear light (H, W, 3) float64, which is clipped to 1 where `mask` (H, W) is True.

    Light beyond 1 elsewhere is known. `linear` is changed in place.
    """
    nothing = np.full((ROWS, 2 * ROWS), np.nan)
    if not mask.any():
        return Solution(linear.astype(np.float32), 1.0, 0, 1.0, nothing)
    lights = clipped_regions.find(linear, mask)
    glow, discs = inverse_tonemapping.lost_radiance(lights)
    colour = inverse_tonemapping.warmth(lights)[lights.region]  # (P, 3)
    points = None if maps is None else measure(linear, mask, maps)
    if maps is None or points is None or len(points.cell) < FEWEST:
        linear[mask] += glow[:, None] + sun_strength * discs[:, None] * colour
        return Solution(linear.astype(np.float32), 0.0, 0, 1.0, nothing)

    discs = np.maximum(discs, suns(lights, glow, maps.distance))
    ambient, response, unknowns = equations(linear, lights, glow, discs, maps, points)
    weights, measured = LUMINANCE, points.measured
    each = np.where(unknowns.is_disc[:, None], np.where(unknowns.is_sky[:, None], SUN, DISC), GLOW)  # (K, 2)
    priors = np.concatenate([[SCALE, COMMON], each])
    fitted = _fit(measured @ weights, ambient @ weights, np.tensordot(weights, response, 1), priors)
    excess = np.log(measured @ weights / np.maximum(ambient @ weights, 1e-6))  # (N,)
    certainty = np.clip((np.median(excess) - HIDDEN) / (SHOWN - HIDDEN), 0, 1)
    solved = fitted.common + fitted.each  # (K,)
    factor = np.exp(np.where(unknowns.is_disc & (solved < 0), certainty * solved, solved))
    shown = LEAST + (1 - LEAST) * min(1, fitted.confidence / TRUSTED)
    factor = np.where(unknowns.is_disc & unknowns.is_sky, factor, shown * factor)
    colours = _colours(measured * np.exp(fitted.scale), ambient, response * factor)  # (K, 3)
    linear[mask] += (
        glow[:, None] * (factor[:, None] * colours)[unknowns.of_glow]
        + sun_strength * discs[:, None] * colour * (factor[:, None] * colours)[unknowns.of_disc]
    )
    residual = nothing.ravel()
    residual[points.cell] = fitted.residual
    return Solution(
        linear.astype(np.float32), fitted.confidence, len(points.cell),
        float(np.exp(np.median(np.abs(fitted.residual)))), residual.reshape(nothing.shape),
    )  # fmt: skip


def equations(
    linear: np.ndarray, lights: Clipped, glow: np.ndarray, discs: np.ndarray, maps: Maps, points: Points
) -> tuple[np.ndarray, np.ndarray, Unknowns]:
    """Return what arrives at the points of the picture (H, W, 3) itself, (N, 3), and by channel of each unknown at its
    prior, (3, N, K); and the unknowns.

    `glow` and `discs` (P,): the lost radiance of the clipped pixels at prior.
    """
    table = transport.DistanceTable(maps.distance)
    sources, energy = _ambient(linear, maps)
    ambient = transport.arriving(points.place, points.normal, sources, table) @ energy  # (N, 3)
    colour = inverse_tonemapping.warmth(lights)[lights.region]  # (P, 3)
    unknowns = _unknowns(lights, glow, discs, colour, maps)
    arriving = transport.arriving(points.place, points.normal, unknowns.sources, table)  # (N, S)
    one = unknowns.unknown[:, None] == np.arange(len(unknowns.is_disc))  # (S, K)
    response = np.stack([arriving @ (one * unknowns.energy[:, c : c + 1]) for c in range(3)])  # (3, N, K)
    return ambient, response, unknowns


def measure(linear: np.ndarray, mask: np.ndarray, maps: Maps) -> Points:
    """Measure the irradiance of up to POINTS points of the linear picture (H, W, 3), clipped where `mask` (H, W) is.

    They are spread evenly over the sphere. Left out are sky, edges, what is seen at a slant, black, or beside a clipped
    pixel, what isn't finite, and what shines: sky and lamps that the maps show as surfaces.
    """
    rays = directions(ROWS, 2 * ROWS)
    light, albedo = (_blocks(panoramas.resize(p.astype(np.float32), _FINE * ROWS)) for p in (linear, maps.albedo))
    touched = panoramas.resize(mask[..., None].astype(np.float32), ROWS)[..., 0] > 0
    fine = nearest(maps.distance, _FINE * ROWS)
    solid = _blocks(np.isfinite(fine)) == 1
    logarithm = np.log(np.where(np.isfinite(fine), np.maximum(fine, _SMALL), 1))
    even = _blocks(logarithm**2) - _blocks(logarithm) ** 2 < _EVEN
    distance = np.exp(_blocks(logarithm))
    normal = _blocks(nearest(maps.normal, _FINE * ROWS))
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), _SMALL)
    facing = -(rays * normal).sum(-1) > _FACING
    with np.errstate(invalid="ignore"):
        valid = solid & even & facing & ~touched & (albedo @ LUMINANCE > _ALBEDO) & (light @ LUMINANCE > _RADIANCE)
    weight = np.where(valid, solid_angles(ROWS, 2 * ROWS), 0).ravel().cumsum()
    if weight[-1] <= 0:
        return Points(np.zeros(0, int), *(np.zeros((0, 3)) for _ in range(3)))
    cell = np.unique(np.searchsorted(weight, (np.arange(POINTS) + 0.5) / POINTS * weight[-1]))
    place = (rays * np.where(solid, distance, 0)[..., None]).reshape(-1, 3)
    measured = np.pi * light.reshape(-1, 3)[cell] / (albedo.reshape(-1, 3)[cell] + SPECULAR)
    points = Points(cell, place[cell], normal.reshape(-1, 3)[cell], np.maximum(measured, 1e-6).astype(np.float64))
    level, received = points.normal[:, 2] > LEVEL, points.measured @ LUMINANCE
    if level.sum() < FEWEST:
        return points
    kept = level | (received < SHINING * np.quantile(received[level], 0.9))
    return Points(*(values[kept] for values in points))


def _blocks(pixels: np.ndarray) -> np.ndarray:
    """Average (_FINE · ROWS, _FINE · 2 · ROWS, …) over the cells of the grid."""
    return pixels.reshape(ROWS, _FINE, 2 * ROWS, _FINE, *pixels.shape[2:]).mean((1, 3))


def nearest(pixels: np.ndarray, rows: int) -> np.ndarray:
    """Return the nearest of the pixels (H, W, …) to those of a grid of `rows` × 2 · `rows`."""
    height, width = pixels.shape[:2]
    row, column = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in ((rows, height), (2 * rows, width)))
    return pixels[row[:, None], column]


def _ambient(linear: np.ndarray, maps: Maps) -> tuple[Sources, np.ndarray]:
    """Return the picture as sources, and their radiance × solid angle by channel (S, 3)."""
    rows = AMBIENT_ROWS
    rays = directions(rows, 2 * rows).reshape(-1, 3).astype(np.float64)
    distance, normal = nearest(maps.distance, rows).ravel(), nearest(maps.normal, rows).reshape(-1, 3)
    solid = np.repeat(solid_angles(rows, 2 * rows), 2 * rows)
    energy = panoramas.resize(linear.astype(np.float32), rows).reshape(-1, 3) * solid[:, None]
    return Sources(rays, distance, np.where(np.isfinite(distance)[:, None], normal, 0)), energy.astype(np.float64)


def suns(lights: Clipped, glow: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the (P,) radiance of a disc of SUN_SHARE of the glow in each region that is sky for the most part."""
    light, sky = (
        np.bincount(lights.region, part * lights.solid) for part in (glow, np.isinf(_at(distance, lights.ray)))
    )
    return inverse_tonemapping.discs(lights, np.where(sky > lights.size / 2, SUN_SHARE * light, 0))


def _unknowns(lights: Clipped, glow: np.ndarray, discs: np.ndarray, colour: np.ndarray, maps: Maps) -> Unknowns:
    """Return the parts of the lost light, in pieces of one cell of the grid each."""
    count = len(lights.size)
    parts = (glow * lights.solid, discs * lights.solid)
    order = (-np.bincount(lights.region, parts[0] + parts[1], count)).argsort()[:REGIONS]
    rank = np.full(count, len(order))
    rank[order] = np.arange(len(order))
    column = rank[lights.region]  # [P]
    distance, normal = _at(maps.distance, lights.ray), _at(maps.normal, lights.ray)
    far = ~np.isfinite(distance)
    cell = _cell(lights.ray, ROWS)
    rays, distances, normals, energies, keys = [], [], [], [], []
    for part, energy in enumerate(parts):
        key, of = np.unique(column * (2 * ROWS * ROWS) + cell, return_inverse=True)
        total = np.bincount(of, energy)
        kept = np.flatnonzero(total > 1e-3 * total.max()) if total.max() > 0 else np.zeros(0, int)
        kept = kept[(-total[kept]).argsort()[:PIECES]]
        ray = _sums(of, lights.ray * (energy + 1e-12)[:, None])[kept]
        rays.append(ray / np.linalg.norm(ray, axis=-1, keepdims=True))
        near = np.bincount(of, ~far)[kept]
        mean = np.bincount(of, np.where(far, 0, distance))[kept] / np.maximum(near, 1)
        distances.append(np.where(near * 2 > np.bincount(of)[kept], mean, np.inf))
        # Bulbs shine to all sides; windows, panels and other glowing surfaces by the cosine.
        facing = _sums(of, normal)[kept] * (part == 0)
        facing = facing / np.maximum(np.linalg.norm(facing, axis=-1, keepdims=True), 1e-6)
        normals.append(np.where(np.isfinite(distances[-1])[:, None], facing, 0))
        # What the pieces that are left out would give comes from those that are kept.
        unknown = key[kept] // (2 * ROWS * ROWS)
        whole, some = np.bincount(column, energy, len(order) + 1), np.bincount(unknown, total[kept], len(order) + 1)
        light = _sums(of, energy[:, None] * (colour if part else np.ones(3)))[kept]
        energies.append(light * (whole / np.maximum(some, 1e-12))[unknown][:, None])
        keys.append(unknown * 2 + part)
    used, unknown = np.unique(np.concatenate(keys), return_inverse=True)
    # Parts without a piece lost nothing: any factor is right.
    index = np.minimum(np.searchsorted(used, np.arange(2 * len(order) + 2)), len(used) - 1)
    sources = Sources(np.concatenate(rays), np.concatenate(distances), np.concatenate(normals))
    is_sky = np.bincount(unknown, ~np.isfinite(sources.distance)) > np.bincount(unknown) / 2
    return Unknowns(
        sources, np.concatenate(energies), unknown, used % 2 == 1, is_sky, index[2 * column], index[2 * column + 1]
    )  # fmt: skip


def _sums(of: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum (P, 3) values by group `of` (P,)."""
    return np.stack([np.bincount(of, values[:, axis]) for axis in range(3)], axis=-1)


def _cell(ray: np.ndarray, rows: int) -> np.ndarray:
    """Return the cell of a grid of `rows` × 2 · `rows` that each unit ray (P, 3) meets."""
    row = np.arccos(np.clip(ray[:, 2], -1, 1)) / np.pi * rows
    column = (0.5 - np.arctan2(ray[:, 1], ray[:, 0]) / (2 * np.pi)) * 2 * rows
    return np.minimum(row.astype(int), rows - 1) * 2 * rows + column.astype(int) % (2 * rows)


def _at(pixels: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """Return the pixels (H, 2·H, …) that unit rays (P, 3) meet."""
    return pixels.reshape(-1, *pixels.shape[2:])[_cell(ray, len(pixels))]


class _Fit(NamedTuple):
    scale: float
    common: float
    each: np.ndarray  # (K,)
    residual: np.ndarray  # (N,)
    confidence: float


def _fit(measured: np.ndarray, ambient: np.ndarray, response: np.ndarray, priors: np.ndarray) -> _Fit:
    """Fit the logarithms of the factors to measurements (N,), given ambient light (N,) and the response (N, K).

    `priors`: mean and standard deviation of the logarithms of the scale, of the common factor and of each, (2 + K, 2).
    """
    count = len(response)
    mean, prior = priors.T
    x = mean.copy()
    ambient, goal = np.maximum(ambient, 1e-6), np.log(measured)
    ones = np.ones((count, 1))
    left = _STEPS
    while True:
        part = response * np.exp(x[1] + x[2:])
        total = ambient + part.sum(-1)
        residual = np.log(total) - goal - x[0]
        noise = max(EXACT, 1.48 * float(np.median(np.abs(residual))))
        slope = np.concatenate([-ones, part.sum(-1, keepdims=True) / total[:, None], part / total[:, None]], axis=-1)
        weight = EVIDENCE / count / noise**2 / (1 + (residual / noise) ** 2 / FREEDOM)
        curvature = (slope * weight[:, None]).T @ slope + np.diag(prior**-2)
        step = np.linalg.solve(curvature, slope.T @ (weight * residual) + (x - mean) / prior**2)
        largest = float(np.abs(step).max())
        x -= step * min(1, 1 / max(largest, _SMALL))  # the equations are linear nearby only
        left -= 1
        if largest < _SMALL or left == 0:
            break
    share = part.sum(0) / max(part.sum(), 1e-12)
    direction = np.concatenate([[0, 1], share])
    before, after = direction @ (prior**2 * direction), direction @ np.linalg.solve(curvature, direction)
    return _Fit(float(x[0]), float(x[1]), x[2:], residual, float(1 - np.sqrt(min(after / before, 1))))


def _colours(measured: np.ndarray, ambient: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return by what to multiply the channels of the unknowns, (K, 3), without a change of their luminance.

    `measured` and `ambient` are (N, 3), `response` (3, N, K).
    """
    deviations = np.array([CHANNEL_SCALE, *[COLOUR] * (1 + response.shape[2])])
    priors = np.stack([np.zeros_like(deviations), deviations], axis=-1)
    fits = [_fit(measured[:, c], ambient[:, c], response[c], priors) for c in range(3)]
    ratio = np.exp(np.stack([fit.common + fit.each for fit in fits], axis=-1))  # (K, 3)
    light = LUMINANCE * response.sum(1).T + 1e-12  # [K, 3]: what each channel adds to luminance
    return ratio * (light.sum(-1) / (light * ratio).sum(-1))[:, None]
