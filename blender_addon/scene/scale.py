"""The scale and place of an environment: one length that the user measures sets the scale, also when it is built again.

It is stored in custom properties of the mesh or dome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ...shared.jobs.scene import check_scale
from . import environment

#: Metres per unit of distance, and whether the user measured it.
SCALE, MEASURED = "panoform_scale", "panoform_scale_measured"
#: The point of the floor under the panorama's centre in the object's axes, which stays in place.
FLOOR = "panoform_floor"
#: Its pose, 4 rows of 4, before the user moved it, at its present scale.
PLACE = "panoform_place"
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


def store_place(body: bpy.types.Object, pose: Matrix) -> None:
    """Store the pose that `body` has, or would have if the user had not moved it."""
    body[PLACE] = [value for row in pose for value in row]


def place(body: bpy.types.Object) -> Matrix:
    """Return the pose that `body` would have if the user had not moved it; of an earlier version, its own."""
    values = body.get(PLACE)
    return body.matrix_world.copy() if values is None else Matrix([values[i : i + 4] for i in range(0, 16, 4)])


def apply(body: bpy.types.Object, factor: float) -> None:
    """Scale an environment, built by Panoform, about the floor under its centre; the world stays as it is.

    Cameras and lamps move, but keep their own size. Raise SettingError where its scale would be out of range.
    """
    metres_per_unit = body.get(SCALE, 1.0) * factor
    check_scale(metres_per_unit)
    former = place(body)
    store_place(body, _about_floor(body, former, factor) @ former)
    move(body, _about_floor(body, body.matrix_world, factor))
    body[SCALE] = metres_per_unit
    body[MEASURED] = True


def restoring(body: bpy.types.Object) -> Callable[[], None]:
    """Return what gives an environment the scale and place back that it has now."""
    held = {name: body[name] for name in (PLACE, SCALE, MEASURED) if name in body}
    held = {name: value if isinstance(value, float | bool) else list(value) for name, value in held.items()}
    poses = [(part, part.matrix_basis.copy()) for part in environment.parts(body)]

    def restore() -> None:
        for name in (PLACE, SCALE, MEASURED):
            body.pop(name, None)
        for name, value in held.items():
            body[name] = value
        for part, pose in poses:
            part.matrix_basis = pose
        bpy.context.view_layer.update()  # matrix_world

    return restore


def _about_floor(body: bpy.types.Object, pose: Matrix, factor: float) -> Matrix:
    pivot = pose @ Vector(body.get(FLOOR, (0, 0, 0)))
    return Matrix.Translation(pivot) @ Matrix.Scale(factor, 4) @ Matrix.Translation(-pivot)


def move(body: bpy.types.Object, motion: Matrix) -> None:
    """Move an environment with all its parts by `motion`, 4 × 4. Cameras and lamps keep their own size."""
    parts = environment.parts(body)
    moved = {part: motion @ part.matrix_world for part in parts if part.parent not in parts}
    for part, pose in moved.items():
        if part.type != "MESH":
            pose = Matrix.LocRotScale(pose.translation, pose.to_quaternion(), part.matrix_world.to_scale())
        part.matrix_world = pose
