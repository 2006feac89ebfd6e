"""True distances from a point in a scene, along rays in all directions: they give the scale of perceived maps."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix, Vector

#: Number of rays.
_RAYS = 512


def measure(scene: bpy.types.Scene, world_from_panorama: Matrix) -> np.ndarray | None:
    """Return (N, 4) float32: unit directions in the panorama's frame, and the distances to what is hit along them.

    `world_from_panorama`: 4 × 4, a rotation and a translation. None if nothing is hit.
    """
    layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    layer.update()
    origin, turn = world_from_panorama.translation, world_from_panorama.to_3x3()
    found = []
    for ray in _directions(_RAYS):
        hit, place, *_ = scene.ray_cast(layer.depsgraph, origin, turn @ Vector(ray))
        if hit:
            found.append((*ray, (place - origin).length))
    return np.array(found, np.float32) if found else None


def _directions(count: int) -> np.ndarray:
    """Return unit vectors (count, 3) that are evenly spread over the sphere: a Fibonacci lattice."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
