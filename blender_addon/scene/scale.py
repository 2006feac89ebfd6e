"""The scale of an environment: one length that the user measures sets it, also when it is built again.

It is stored in custom properties of the mesh or dome.
"""

from __future__ import annotations

import hashlib

import bpy
import numpy as np
from mathutils import Matrix, Vector

from . import environment

#: Metres per unit of distance, and whether the user measured it.
SCALE, MEASURED = "panoform_scale", "panoform_scale_measured"
#: The point of the floor under the panorama's centre in the object's axes, which stays in place.
FLOOR = "panoform_floor"
#: Digest of the distance map that it was built from.
MAPS = "panoform_maps"


def digest(distance: np.ndarray) -> str:
    """Return what tells the file of a distance map, (bytes,) uint8, from others."""
    return hashlib.blake2b(distance, digest_size=16).hexdigest()


def store(body: bpy.types.Object, maps: str, metres_per_unit: float, floor: Vector, *, measured: bool) -> None:
    """Store the scale that `body` was built with; the parameters are as the properties above."""
    body[MAPS], body[SCALE], body[MEASURED], body[FLOOR] = maps, metres_per_unit, measured, list(floor)


def measured(scene: bpy.types.Scene, maps: str) -> float | None:
    """Return the scale that the user measured in the scene's newest environment from these maps; None if not.

    `maps`: their digest; "": unknown.
    """
    for body in reversed(scene.objects):
        if maps and body.get(MAPS) == maps:
            return body[SCALE] if body[MEASURED] else None
    return None


def apply(body: bpy.types.Object, factor: float) -> None:
    """Scale an environment, built by Panoform, about the floor under its centre; the world stays as it is.

    Cameras and lamps move, but keep their own size.
    """
    pivot = body.matrix_world @ Vector(body.get(FLOOR, (0, 0, 0)))
    scaling = Matrix.Translation(pivot) @ Matrix.Scale(factor, 4) @ Matrix.Translation(-pivot)
    parts = environment.parts(body)
    moved = {part: scaling @ part.matrix_world for part in parts if part.parent not in parts}
    for part, pose in moved.items():
        if part.type != "MESH":
            location, pose = pose.translation, part.matrix_world.copy()
            pose.translation = location
        part.matrix_world = pose
    body[SCALE] = body.get(SCALE, 1.0) * factor
    body[MEASURED] = True
