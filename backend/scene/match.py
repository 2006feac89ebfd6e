"""Albedo and emission with which the scene, under the light that the panorama shows, looks like the panorama.

A model's albedo is blurred, and off in brightness and colour, so that a scene lit by its own light is darker or bluer
than its panorama. A surface that receives the irradiance E and shows the radiance L, but for what it mirrors, has the
albedo π · L / E, and a metal the ratio of L to what it mirrors. What is brighter than white paint shines: it is lit
from elsewhere than the maps show, or lets light through.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ...shared.imaging.colour import LUMINANCE, srgb_from_linear
from ...shared.imaging.sphere import directions, solid_angles
from ..io import panoramas
from ..lighting.irradiance import irradiance
from . import grid
from .textures import enlarge

#: Darkest and brightest albedo, linear.
DARKEST, BRIGHTEST = 0.01, 0.9
#: How many times as bright as white paint a surface is that begins to shine, and one that does so alone.
_SHINES = 1.0, 2.0
#: How far from a lamp surfaces shine too, as a share of the height: 2°. Its outline then has no step.
_BESIDE = 1 / 90
#: Standard deviation of the edges of shadows, as a share of the height: 1.3°.
_SOFT = 0.007
#: Roughness without a map; reflectance of a dielectric's surface from the front; the most of what a surface shows that
#: it mirrors; rows of what is mirrored, blurred, and how many times the mean it is at most: no reflections of lamps.
_ROUGHNESS, _FRONT, _MIRRORED, _ROWS, _CALM = 0.5, 0.04, 0.5, 16, 4.0


class Match(NamedTuple):
    """What makes surfaces look like their panorama; arrays have its size."""

    #: sRGB, (H, W, 3) float32.
    albedo: np.ndarray
    #: Linear radiance that they emit, (H, W, 3).
    emission: np.ndarray


def match(
    light: np.ndarray,
    distance: np.ndarray,
    normal: np.ndarray,
    albedo: np.ndarray,
    roughness: np.ndarray | None = None,
    metallic: np.ndarray | None = None,
    lamps: np.ndarray | None = None,
) -> Match:
    """Match surfaces to the linear light of their panorama (H, W, 3), W = 2·H.

    `distance`: along the rays, (H, W), inf for sky; `normal`: unit normals towards the camera; `albedo`: linear, both
    (H, W, 3); `roughness`, `metallic`: (H, W). `lamps`: which surfaces are lamps, (H, W) bool.
    """
    metal = np.zeros((*distance.shape, 1)) if metallic is None else metallic[..., None]
    clear, white_metal = _mirrored(light, normal, _ROUGHNESS if roughness is None else roughness)
    arriving = _soft(irradiance(light, distance, normal), np.isfinite(distance))
    white = (1 - metal) * arriving / np.pi + metal * white_metal
    diffuse = light - np.minimum((1 - metal) * clear, _MIRRORED * light)
    lit = (white @ LUMINANCE > 1e-6) & np.isfinite(distance)
    wanted = (diffuse / np.maximum(white, 1e-6)).clip(DARKEST, BRIGHTEST)
    # Where a surface shines, it does so alone: how much light arrives beside a lamp is hardly known.
    times = (light @ LUMINANCE) / np.maximum(white @ LUMINANCE, 1e-6)
    shining = ((times - _SHINES[0]) / (_SHINES[1] - _SHINES[0])).clip(0, 1)
    if lamps is not None:
        shining = np.maximum(shining, _beside(lamps))
    shining = np.where(lit, shining, 0)[..., None]
    found = srgb_from_linear(np.where(lit[..., None], wanted * (1 - shining), albedo))
    return Match(found.astype(np.float32), (light * shining).astype(np.float32))


def _beside(lamps: np.ndarray) -> np.ndarray:
    """Return how near pixels are to lamps (H, W) bool: 1 at their outline, falling to 0 at `_BESIDE`."""
    reach = max(1.0, _BESIDE * len(lamps))
    margin = int(reach) + 1
    away = ndimage.distance_transform_edt(np.pad(~lamps, ((0, 0), (margin, margin)), mode="wrap"))
    assert isinstance(away, np.ndarray)
    return (1 - (away[:, margin:-margin] - 1) / reach).clip(0, 1)


def _soft(light: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Blur the light (H, W, 3) of `solid` surfaces (H, W) a little: no pixels show at the edges of shadows."""

    def blurred(values: np.ndarray) -> np.ndarray:
        for axis, mode in ((0, "nearest"), (1, "wrap")):
            values = ndimage.gaussian_filter1d(values, _SOFT * len(light), axis=axis, mode=mode)
        return values

    weight = solid[..., None].astype(np.float32)
    return blurred(light * weight) / np.maximum(blurred(weight), 1e-6) * weight


def _mirrored(light: np.ndarray, normal: np.ndarray, roughness: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear radiance that dielectric surfaces mirror towards the camera, and white metal, each (H, W, 3).

    It comes from far away, and their reflectance is that of a GGX lobe. (B. Karis, "Physically Based Shading on
    Mobile", 2014.)
    """
    height = len(light)
    rays = directions(height, 2 * height).astype(np.float32)
    cosine = -grid.dot(rays, normal).clip(-1, 0)
    slanted = np.minimum((1 - roughness) ** 2, np.exp2(-9.28 * cosine)) * (1 - roughness) + 0.0425 - 0.0275 * roughness
    scale, offset = 1.04 - 0.572 * roughness - 1.04 * slanted, 1.04 * slanted - 0.04 + 0.022 * roughness
    x, y, z = np.moveaxis(rays + 2 * cosine[..., None] * normal, -1, 0)
    row = np.arccos(z.clip(-1, 1)) / np.pi * height
    column = (1 - np.arctan2(y, x) / np.pi) * height
    luminance = light @ LUMINANCE
    most = _CALM * np.average(luminance, weights=solid_angles(height, 2 * height) * np.ones_like(luminance))
    calm = light * np.minimum(1, most / np.maximum(luminance, 1e-12))[..., None]
    blurred = enlarge(panoramas.resize(calm.astype(np.float32), _ROWS), height, slice(0, height))
    seen = blurred[np.minimum(row.astype(int), height - 1), column.astype(int) % (2 * height)]
    return (_FRONT * scale + offset)[..., None] * seen, (scale + offset)[..., None] * seen
