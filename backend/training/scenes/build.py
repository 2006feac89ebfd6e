"""Meshes for procedural scenes: boxes, cylinders, blobs and grids, each with a material, a class and UVs in metres."""

# bpy has no type declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np

from ...perception.palette import PALETTE

CLASSES = tuple(PALETTE)


def _box_uv(vertices: np.ndarray, faces: Sequence[Sequence[int]]) -> np.ndarray:
    """Return UVs in metres per face corner, by projecting each face along its normal's largest axis."""
    out = []
    for face in faces:
        points = vertices[list(face)]
        normal = np.abs(np.cross(points[1] - points[0], points[2] - points[0]))
        drop = int(normal.argmax())
        u, v = ((1, 2), (0, 2), (0, 1))[drop]
        out.append(points[:, [u, v]])
    return np.concatenate(out)


class Builder:
    """Adds meshes to the open Blender file. Lengths in metres, angles in radians; z is up."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._uv_offset = 0.0

    def mesh(
        self, vertices: np.ndarray, faces: Sequence[Sequence[int]], material: bpy.types.Material, label: str,
        location=(0.0, 0.0, 0.0), yaw: float = 0.0, smooth: bool = False,
    ) -> bpy.types.Object:  # fmt: skip
        """Add a mesh of `vertices` (N, 3) and `faces` (indices); `label` is a name in perception.palette.PALETTE."""
        mesh = bpy.data.meshes.new(label)
        mesh.from_pydata(vertices.tolist(), [], [list(face) for face in faces])
        layer = mesh.uv_layers.new(name="UVMap")
        # Offset the UVs, so that objects show different parts of a texture.
        self._uv_offset += 1.37
        layer.data.foreach_set("uv", (_box_uv(vertices, faces) + self._uv_offset).astype(np.float32).ravel())
        if smooth:
            mesh.shade_smooth()
        mesh.materials.append(material)
        thing = bpy.data.objects.new(label, mesh)
        thing.location = location
        thing.rotation_euler = (0, 0, yaw)
        thing.pass_index = CLASSES.index(label)
        bpy.context.scene.collection.objects.link(thing)
        return thing

    def box(self, centre, size, material, label: str, yaw: float = 0.0, pivot=(0.0, 0.0)) -> bpy.types.Object:
        """Add a box of `size` at `centre`, relative to `pivot` (x, y) and rotated by `yaw` about it."""
        c, s = np.cos(yaw), np.sin(yaw)
        x, y, z = centre
        location = (pivot[0] + c * x - s * y, pivot[1] + s * x + c * y, z)
        half = np.array(size) / 2
        corners = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) * half
        faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        return self.mesh(corners, faces, material, label, location, yaw)

    def cylinder(self, base, radius, height, material, label: str, top=None, sides: int = 16) -> bpy.types.Object:
        """Add a cylinder, or a cone with radius `top` at its upper end, standing on `base`."""
        top = radius if top is None else top
        angle = np.arange(sides) / sides * 2 * np.pi
        ring = np.stack([np.cos(angle), np.sin(angle)], -1)
        vertices = np.concatenate([np.c_[ring * radius, np.zeros(sides)], np.c_[ring * top, np.full(sides, height)]])
        faces = [(i, (i + 1) % sides, sides + (i + 1) % sides, sides + i) for i in range(sides)]
        faces += [tuple(range(sides - 1, -1, -1)), tuple(range(sides, 2 * sides))]
        return self.mesh(vertices, faces, material, label, base)

    def blob(self, centre, radii, material, label: str, rough: float = 0.0, detail: int = 12) -> bpy.types.Object:
        """Add an ellipsoid with a random displacement of up to the share `rough` of its radius (leaves, rocks)."""
        lat, lon = np.linspace(-np.pi / 2, np.pi / 2, detail + 1), np.linspace(0, 2 * np.pi, 2 * detail, endpoint=False)
        b, a = np.meshgrid(lat, lon, indexing="ij")
        unit = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], -1)
        swell = 1 + rough * self.rng.uniform(-1, 1, b.shape)
        swell[0], swell[-1] = swell[0, 0], swell[-1, 0]
        vertices = (unit * swell[..., None] * np.array(radii)).reshape(-1, 3)
        n = 2 * detail
        faces = [
            (i * n + j, i * n + (j + 1) % n, (i + 1) * n + (j + 1) % n, (i + 1) * n + j)
            for i in range(detail)
            for j in range(n)
        ]
        return self.mesh(vertices, faces, material, label, centre, smooth=rough < 0.05)

    def quad(self, corners, material, label: str) -> bpy.types.Object:
        """Add a quad of four corners, anticlockwise seen from its front."""
        return self.mesh(np.array(corners, dtype=float), [(0, 1, 2, 3)], material, label)

    def terrain(self, size: float, heights: np.ndarray, material, label: str) -> bpy.types.Object:
        """Add a square height field around the origin, `heights` (N, N) in metres, with cells that grow outwards."""
        n = len(heights)
        line = np.linspace(-1, 1, n)
        line = np.sign(line) * np.abs(line) ** 2 * size / 2
        y, x = np.meshgrid(line, line, indexing="ij")
        vertices = np.stack([x, y, heights], -1).reshape(-1, 3)
        faces = [
            (i * n + j, i * n + j + 1, (i + 1) * n + j + 1, (i + 1) * n + j) for i in range(n - 1) for j in range(n - 1)
        ]
        return self.mesh(vertices, faces, material, label, smooth=True)


def turned(point, yaw: float, pivot=(0.0, 0.0)) -> tuple[float, float, float]:
    """Rotate a point (x, y, z) about the vertical through the origin, and shift it by `pivot` (x, y)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return float(pivot[0] + c * point[0] - s * point[1]), float(pivot[1] + s * point[0] + c * point[1]), float(point[2])


def turned_plan(corners: np.ndarray, yaw: float) -> np.ndarray:
    """Rotate corners (N, 2) about the origin."""
    return corners @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
