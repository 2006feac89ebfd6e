"""The six orthographic cameras around an object, and what they see of it.

The frame is Blender's: X right, Y back, Z up; the object faces −Y, its bounding box is centred at the origin, and its
longest side is 1 (training data of MV-Adapter, huanngzh/bpy-renderer).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...shared.imaging.rasterise import Fragments, rasterise

#: Side of the square that a camera sees, as a multiple of the object's longest side, and distance of the cameras.
ORTHO_SCALE, DISTANCE = 1.1, 1.8

#: Directions of the cameras in degrees, as in the training data: the upper and lower ones are not quite vertical, so
#: that Z tells which way their pictures are turned.
_AZIMUTH = (-90, 0, 90, 180, 90, 90)
_ELEVATION = (0, 0, 0, 0, 89.99, -89.99)


def _axes() -> np.ndarray:
    azimuth, elevation = np.radians(_AZIMUTH), np.radians(_ELEVATION)
    towards = np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=-1
    )
    right = np.cross([0, 0, 1], towards)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    return np.stack([right, np.cross(towards, right), towards], axis=1)


#: Axes of the pictures, (6, 3, 3); rows: to the right, up, towards the camera.
AXES = _axes()


@dataclass(frozen=True)
class Mesh:
    """Triangles with normals and texture coordinates of their own at each corner."""

    #: (T, 3, 3) in the frame of the cameras.
    corners: np.ndarray
    #: Unit vectors, (T, 3, 3).
    normals: np.ndarray
    #: Texture coordinates, (T, 3, 2): u to the right, v up.
    uv: np.ndarray


def joined(*meshes: Mesh) -> Mesh:
    """Return one mesh with the triangles of all, in their order."""
    return Mesh(*(np.concatenate([getattr(mesh, name) for mesh in meshes]) for name in ("corners", "normals", "uv")))


@dataclass(frozen=True)
class View:
    """What one camera sees of a mesh, (H, H, …) float32."""

    mask: np.ndarray
    #: 0 without the mesh.
    position: np.ndarray
    #: Unit vectors; 0 without the mesh.
    normal: np.ndarray
    #: Distance from the plane of the camera; 0 without the mesh.
    depth: np.ndarray


def fit(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return centre (3,) and longest side of the bounding box of points (…, 3): the frame's origin and unit."""
    points = points.reshape(-1, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, float((high - low).max())


def project(points: np.ndarray, view: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Project points (…, 3): pixels (…, 2), x to the right and y down, and distance from the camera's plane (…)."""
    x, y, towards = np.moveaxis(points @ AXES[view].T, -1, 0)
    return np.stack([x / ORTHO_SCALE + 0.5, 0.5 - y / ORTHO_SCALE], axis=-1) * size, DISTANCE - towards


def render(mesh: Mesh, view: int, size: int) -> View:
    """Render positions and normals of the mesh, without antialiasing."""
    points, depth = project(mesh.corners, view, size)
    fragments = rasterise(points, size, size, depth)
    normal = fragments.interpolate(mesh.normals)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return View(
        mask=fragments.mask,
        position=fragments.interpolate(mesh.corners).astype(np.float32),
        normal=normal.astype(np.float32),
        depth=_depth(fragments, depth),
    )


def _depth(fragments: Fragments, depth: np.ndarray) -> np.ndarray:
    return fragments.interpolate(depth[..., None])[..., 0].astype(np.float32)


def control_image(view: View) -> np.ndarray:
    """Return the control image of a view, (H, H, 6) float32 in [0, 1]: position + 0.5 and normal / 2 + 0.5.

    Both are 0.5 where there is no mesh.
    """
    image = np.concatenate([view.position + 0.5, view.normal / 2 + 0.5], axis=-1)
    return image.clip(0, 1)
