"""A requested mesh in the frame of the six cameras."""

from __future__ import annotations

import numpy as np

from ...shared.jobs.texture import Front, TextureRequest, check_overlap
from . import cameras
from .cameras import Mesh

#: Rotation about Z, in degrees, that turns a front to −Y.
_TURN: dict[Front, int] = {"-Y": 0, "-X": 90, "+Y": 180, "+X": -90}


def prepare(request: TextureRequest) -> tuple[Mesh, Mesh | None]:
    """Return the triangles that get the texture, and the others (None: there are none), in the cameras' frame.

    Raise InputError where their UV map overlaps itself. The request must have been checked.
    """
    turn = np.radians(_TURN[request.settings.front])
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    corners = request.corners.astype(np.float64) @ rotation.T
    centre, side = cameras.fit(corners)
    corners = (corners - centre) / side
    mesh = Mesh(corners, _unit(request.normals @ rotation.T, corners), request.uv.astype(np.float64).clip(0, 1))
    chosen = np.ones(len(corners), bool) if request.chosen is None else request.chosen > 0
    part = _part(mesh, chosen)
    check_overlap(part.uv)
    return part, None if chosen.all() else _part(mesh, ~chosen)


def _part(mesh: Mesh, triangles: np.ndarray) -> Mesh:
    return Mesh(mesh.corners[triangles], mesh.normals[triangles], mesh.uv[triangles])


def _unit(normals: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the normals (T, 3, 3) as unit vectors; those of the triangles where they are 0."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face /= np.maximum(np.linalg.norm(face, axis=-1, keepdims=True), 1e-30)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), face[:, None])
