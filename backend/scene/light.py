"""Light of a scene: lamps that the panorama shows, and the sky beyond what the camera sees of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...shared.imaging import sphere
from ...shared.imaging.colour import LUMINANCE, linear_from_srgb
from ..io import panoramas
from ..io.panoramas import Encoding
from ..lighting import exposure, solve
from . import sky as regions
from .build import Layered
from .textures import nearest

#: A surface is a source of light if it is this many times as bright as the light around can make it.
_BRIGHTER = 2.5
#: Vertical part of the normal from which on a surface is level, and the share of the sphere up to which a lamp below
#: the horizon is small.
_LEVEL, _SMALL = 0.7, 1e-3
#: The sky that isn't seen is at most this many times as bright as the median of what is: it has no second sun.
_BRIGHTEST = 4.0
#: Standard deviation that smooths the sky that isn't seen, as a share of the height: 6°.
_SMOOTHING = 1 / 30
#: Rows that are enough for what is as smooth.
_SMOOTH_ROWS = 180


@dataclass(frozen=True)
class Lights:
    """What lights the scene; arrays have the size of the mesh's layers."""

    #: Linear light of the whole panorama, (H, W, 3).
    all: np.ndarray
    #: Where there are lamps, (H, W) bool, and what surfaces emit, linear, (H, W, 3): of lamps all that they show.
    lamps: np.ndarray
    emission: np.ndarray
    #: Linear light of the whole sky, (H, W, 3).
    environment: np.ndarray


def find(
    panorama: tuple[np.ndarray, Encoding], albedo: np.ndarray | None, layered: Layered, floor: np.ndarray | None = None
) -> Lights:
    """Find what lights the scene. Clipped light of an sRGB panorama is reconstructed by the maps.

    `albedo`: sRGB; None: the panorama's own colours. `floor`: where the semantic map shows it, (h, 2·h) bool.
    """
    pixels, encoding = panorama
    height = len(layered.sky)
    light = panoramas.resize(pixels, height)
    own, _ = exposure.expose(light, encoding)
    grey = linear_from_srgb(panoramas.resize(own if albedo is None else albedo, height))
    if encoding == "srgb":
        distance = np.where(layered.sky, np.inf, layered.planes.distance)
        maps = None if albedo is None else solve.Maps(grey, distance, layered.planes.normal)
        light = solve.reconstruct(light, maps).light
    ground = layered.planes.normal[..., 2] > _LEVEL
    if floor is not None:
        ground |= nearest(floor, height)
    shining = lamps(light, layered.sky, layered.planes.normal, grey, ground)
    return Lights(light, shining, np.where(shining[..., None], light, 0), environment(light, layered.sky))


def lamps(light: np.ndarray, sky: np.ndarray, normal: np.ndarray, albedo: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return where linear light (H, W, 3) shows a lamp, a bright curtain …, but not sky, (H, W) bool.

    These are far brighter than the panorama on average, and than the light around can make them. `normal`: unit normals
    towards the camera; `albedo`: linear, both (H, W, 3). `ground`: what may be ground, (H, W) bool.
    """
    luminance = light @ LUMINANCE
    mean = (luminance * sphere.solid_angles(*sky.shape)).sum() / (4 * np.pi)
    bright = ~sky & (luminance > _BRIGHTER * mean)
    reflected = (albedo[bright] @ LUMINANCE) / np.pi * (irradiance(light, normal[bright]) @ LUMINANCE)
    bright[bright] = luminance[bright] > _BRIGHTER * reflected
    return bright & ~_sunlit(bright, ground) if sky.any() else bright


def _sunlit(bright: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return which of the `bright` pixels (H, W) bool of a scene with sky the sun may light: the ground, and what is
    large, below the horizon.
    """
    below = np.broadcast_to(np.arange(len(bright))[:, None] >= len(bright) / 2, bright.shape)
    ground = bright & below & ground
    labels = regions.label(bright & ~ground)
    share = np.broadcast_to(sphere.solid_angles(*bright.shape) / (4 * np.pi), bright.shape)
    total, low = (np.bincount(labels.ravel(), (share * where).ravel()) for where in (np.ones_like(bright), below))
    large = (total > _SMALL) & (low > total / 2)
    large[0] = False
    return ground | large[labels]


def irradiance(light: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the irradiance (…, 3) that surfaces with unit normals (…, 3) receive from a panorama (H, W, 3).

    All light is taken to come from far away, up to the second order of spherical harmonics. (Ramamoorthi and Hanrahan,
    SIGGRAPH 2001.)
    """
    height, width, _ = light.shape
    weighted = light * sphere.solid_angles(height, width)[..., None]
    basis = _harmonics(sphere.directions(height, width))
    coefficients = np.einsum("hwk,hwc->kc", basis, weighted, optimize=True)
    cosine_lobe = np.array([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])
    return np.maximum(_harmonics(normal) @ (cosine_lobe[:, None] * coefficients), 0)


def _harmonics(directions: np.ndarray) -> np.ndarray:
    """Return the nine real spherical harmonics up to the second order, (…, 9)."""
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack(
        [
            np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
            0.315392 * (3 * z**2 - 1), 1.092548 * x * z, 0.546274 * (x**2 - y**2),
        ],
        axis=-1,
    )  # fmt: skip


def environment(light: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return the light of the whole sky, (H, W, 3) float32, black below the horizon but for what is seen.

    Through a window, the floor sees parts of the sky that the camera doesn't: they are given the colours of the nearest
    sky that it sees. Without any, all is black.
    """
    if not sky.any():
        return np.zeros_like(light, np.float32)
    height, width = sky.shape
    luminance = light @ LUMINANCE
    limit = _BRIGHTEST * float(np.median(luminance[sky]))
    calm = light * np.minimum(1, limit / np.maximum(luminance, 1e-12))[..., None]
    filled = panoramas.resize(_filled(calm.astype(np.float32), sky), height)
    above = sphere.directions(height, width)[..., 2:] > 0
    return np.where(sky[..., None], light, np.where(above, filled, 0)).astype(np.float32)


def _filled(light: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Give all directions the light (H, W, 3) of the nearest sky (H, W) bool, smoothed, at most _SMOOTH_ROWS rows."""
    rows = min(len(sky), _SMOOTH_ROWS)
    shown = panoramas.resize(sky[..., None].astype(np.float32), rows)
    mean = panoramas.resize(light * sky[..., None], rows) / np.maximum(shown, 1e-6)
    side = rows  # half the width
    padded = np.pad(shown[..., 0] > 0, ((0, 0), (side, side)), mode="wrap")
    nearest = np.zeros((2, *padded.shape), np.int32)
    ndimage.distance_transform_edt(~padded, return_distances=False, return_indices=True, indices=nearest)
    nearest = nearest[:, :, side : side + 2 * rows]
    filled = mean[nearest[0], (nearest[1] - side) % (2 * rows)]
    for axis, mode in ((0, "nearest"), (1, "wrap")):
        filled = ndimage.gaussian_filter1d(filled, rows * _SMOOTHING, axis=axis, mode=mode)
    return filled
