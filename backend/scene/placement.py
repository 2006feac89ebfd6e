"""How a mesh is turned in the world: level, and along the axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shared.imaging import sphere
from ...shared.jobs.scene import SceneSettings
from .floor import Floor
from .planes import Planes

NO_WALLS = "The walls have no main direction: they were not aligned."
#: Smallest tilt of a floor that is levelled, in degrees. Below are the errors of maps.
SMALLEST_TILT = 0.2
#: Largest angle between a wall's normal and a level plane, in degrees.
_UPRIGHT = 10.0
#: Smallest share of the panorama that walls cover, and share of their area that stands along the main direction.
_WALLS, _ALONG = 0.03, 0.35
#: Half the width of the main direction, and of what is averaged around it, first and then, in degrees.
_WIDTH_DEG, _AVERAGED_DEG = 5, (10, 5)
#: Smallest cosine between a normal and the ray, for the area that a pixel shows.
_MIN_COSINE = 0.1


@dataclass(frozen=True)
class Place:
    """The place of a panorama in the world."""

    #: Rotation, (3, 3).
    world_from_panorama: np.ndarray
    #: Height over the floor, in the unit of the distances; None without a floor.
    height: float | None
    #: Messages for the user.
    notices: tuple[str, ...]


def place(found: Planes, floor: Floor | None, world_from_panorama: np.ndarray, settings: SceneSettings) -> Place:
    """Level and align the world as `settings` ask for. `world_from_panorama`: rotation (3, 3) that the floor is of."""
    world, notices = world_from_panorama, []
    height = None if floor is None else floor.height
    if floor is not None and floor.tilt_deg >= SMALLEST_TILT:
        if settings.level_floor:
            world = level(world @ floor.normal) @ world
            notices.append(f"The floor was tilted by {floor.tilt_deg:.1f}°.")
        else:  # straight below
            height = floor.height / float(world[2] @ floor.normal)
    if settings.align_walls:
        turn = align(found, world)
        if turn is None:
            notices.append(NO_WALLS)
        else:
            world = turn @ world
    return Place(world, height, tuple(notices))


def level(normal: np.ndarray) -> np.ndarray:
    """Return the smallest rotation (3, 3) that turns a unit vector (3,) upwards."""
    x, y, z = normal
    return np.array([[1 - x * x / (1 + z), -x * y / (1 + z), -x], [-x * y / (1 + z), 1 - y * y / (1 + z), -y], normal])


def align(found: Planes, world_from_panorama: np.ndarray) -> np.ndarray | None:
    """Return the smallest rotation about Z (3, 3) after which most walls stand along the world's axes.

    The main direction is the mode of the horizontal normals modulo 90°, weighted by area. None: there is none.
    """
    normal = found.normal @ world_from_panorama.T
    walls = found.solid & (np.abs(normal[..., 2]) < np.sin(np.radians(_UPRIGHT)))
    angle = np.broadcast_to(sphere.solid_angles(*walls.shape), walls.shape)
    if angle[walls].sum() < _WALLS * 4 * np.pi:
        return None
    facing = np.maximum(-np.einsum("ni,ni->n", found.normal[walls], found.rays[walls]), _MIN_COSINE)
    area = angle[walls] * found.distance[walls] ** 2 / facing
    azimuth = np.degrees(np.arctan2(normal[walls][:, 1], normal[walls][:, 0])) % 90
    histogram = np.bincount(azimuth.astype(int) % 90, area, minlength=90)
    window = np.arange(-_WIDTH_DEG, _WIDTH_DEG + 1)
    mass = histogram[(np.arange(90)[:, None] + window) % 90].sum(axis=1)
    peak = int(mass.argmax())
    if mass[peak] < _ALONG * area.sum():
        return None
    main = peak + 0.5
    for width in _AVERAGED_DEG:
        offset = (azimuth - main + 45) % 90 - 45
        near = np.abs(offset) < width
        main += float(np.average(offset[near], weights=area[near]))
    yaw = np.radians((main + 45) % 90 - 45)
    return sphere.yaw_matrix(-yaw).astype(np.float64)
