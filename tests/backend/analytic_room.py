"""A room whose distances and normals are known exactly from any point: box, window, a cuboid and a ball."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from panoform.shared.imaging import sphere

#: Corners of the room, metres; the panorama's camera is at the origin.
LOW, HIGH = np.array([-2.2, -1.8, -1.6]), np.array([2.8, 2.2, 1.1])
#: The window in the wall at +X: half its width and height, around y = z = 0.
WINDOW = 0.8, 0.6
CUBOID = np.array([0.8, -1.2, -1.6]), np.array([1.3, -0.4, -0.5])
BALL, RADIUS = np.array([1.2, 0.9, -0.9]), 0.4


class Hit(NamedTuple):
    """What rays hit."""

    #: (…) metres, infinite through the window.
    distance: np.ndarray
    #: (…, 3) unit normals towards the camera; 0 in the window.
    normal: np.ndarray


def cast(origin: np.ndarray, rays: np.ndarray, furnished: bool = True, window: bool = True) -> Hit:
    """Cast unit rays (…, 3) from a point inside the room."""
    rays = np.where(rays == 0, 1e-12, rays.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = np.where(rays > 0, (HIGH - origin) / rays, (LOW - origin) / rays)
    axis = walls.argmin(-1)
    distance = walls.min(-1)
    normal = np.zeros_like(rays)
    np.put_along_axis(normal, axis[..., None], -np.sign(np.take_along_axis(rays, axis[..., None], -1)), -1)
    point = origin + rays * distance[..., None]
    if window:
        through = (axis == 0) & (rays[..., 0] > 0)
        through &= (np.abs(point[..., 1]) < WINDOW[0]) & (np.abs(point[..., 2]) < WINDOW[1])
        distance = np.where(through, np.inf, distance)
        normal[through] = 0
    if not furnished:
        return Hit(distance, normal)
    towards = BALL - origin
    along = (rays * towards).sum(-1)
    root = along**2 - (towards @ towards - RADIUS**2)
    ball = along - np.sqrt(np.maximum(root, 0))
    nearer = (root > 0) & (ball > 0) & (ball < distance)
    normal[nearer] = (origin + rays[nearer] * ball[nearer, None] - BALL) / RADIUS
    distance = np.where(nearer, ball, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (CUBOID[0] - origin) / rays, (CUBOID[1] - origin) / rays
    enters, leaves = np.minimum(one, other), np.maximum(one, other)
    axis, enter, leave = enters.argmax(-1), enters.max(-1), leaves.min(-1)
    nearer = (enter < leave) & (enter > 0) & (enter < distance)
    faces = np.zeros_like(rays)
    np.put_along_axis(faces, axis[..., None], -np.sign(np.take_along_axis(rays, axis[..., None], -1)), -1)
    normal[nearer] = faces[nearer]
    return Hit(np.where(nearer, enter, distance), normal)


def maps(height: int, furnished: bool = True, window: bool = True) -> Hit:
    """Return exact maps of the room, (height, 2·height), from the origin."""
    return cast(np.zeros(3), sphere.directions(height, 2 * height), furnished, window)


def soften(exact: Hit, seed: int = 0) -> Hit:
    """Return maps as a good model gives them: blurred by a pixel, noisy, with a finite sky."""
    solid = np.isfinite(exact.distance)
    rays = sphere.directions(*exact.distance.shape)
    distance = np.where(solid, exact.distance, 1.5 * exact.distance[solid].max())
    distance = ndimage.gaussian_filter(distance, 1, mode="wrap")
    distance *= 1 + 0.005 * np.random.default_rng(seed).standard_normal(distance.shape)
    normal = ndimage.gaussian_filter(np.where(solid[..., None], exact.normal, -rays), (1, 1, 0))
    return Hit(distance, normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def turned(height: int, panorama_from_room: np.ndarray, furnished: bool = True, window: bool = True) -> Hit:
    """Return exact maps in a panorama's frame that is turned: `panorama_from_room` is a rotation (3, 3)."""
    rays = sphere.directions(height, 2 * height) @ panorama_from_room
    hit = cast(np.zeros(3), rays, furnished, window)
    return Hit(hit.distance, hit.normal @ panorama_from_room.T)
