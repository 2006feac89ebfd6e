"""Equirectangular geometry.

The frame, everywhere in Panoform (Blender's world axes as mapped by its environment texture):

    centre of the panorama = +X (front)      u = 0.25 = +Y (left)      up = +Z
    left and right edge    = −X              u = 0.75 = −Y (right)     down = −Z

u runs from 0 (left) to 1 (right), v from 0 (top) to 1 (bottom); the centre of pixel (row, column) is at
u = (column + ½) / W, v = (row + ½) / H.
Arrays are (H, W, C), the top row first.
"""

from __future__ import annotations

import numpy as np


def directions(height: int, width: int) -> np.ndarray:
    """Return unit rays through the pixel centres, (H, W, 3) float32, in the frame above."""
    return rays_at((np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None])


def rays_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return unit rays through places of a panorama, (…, 3) float32, in the frame above; u and v are broadcast."""
    lon, lat = (0.5 - u) * 2 * np.pi, (0.5 - v) * np.pi
    cos_lat = np.cos(lat)
    rays = np.empty((*np.broadcast_shapes(u.shape, v.shape), 3), np.float32)
    rays[..., 0], rays[..., 1], rays[..., 2] = cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)
    return rays


def solid_angles(height: int, width: int) -> np.ndarray:
    """Return the solid angle of each pixel in steradians, (H, 1) float32; the sum over all H × W pixels is 4π."""
    edges = np.sin((0.5 - np.arange(height + 1) / height) * np.pi)
    return ((edges[:-1] - edges[1:]) * 2 * np.pi / width)[:, None].astype(np.float32)


def column_frames(width: int) -> np.ndarray:
    """Return each column's local axes as rows, (W, 3, 3) float32: away from the vertical axis, left, up.

    `frames[column] @ vector` converts a vector from world to column axes, which turn with the panorama.
    """
    lon = (0.5 - (np.arange(width) + 0.5) / width) * 2 * np.pi
    c, s, zero = np.cos(lon), np.sin(lon), np.zeros(width)
    return np.stack([c, s, zero, -s, c, zero, zero, zero, zero + 1], -1).reshape(width, 3, 3).astype(np.float32)


def yaw_matrix(yaw_rad: float) -> np.ndarray:
    """Return the rotation about +Z by `yaw_rad`, anticlockwise seen from above (+X towards +Y), (3, 3) float32."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=np.float32)
