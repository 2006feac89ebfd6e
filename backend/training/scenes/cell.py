"""Convex rooms bounded by random planes: leaning walls and pitched roofs, as in attics, tents and lofts."""

from __future__ import annotations

import numpy as np
from scipy.spatial import HalfspaceIntersection

from . import materials
from .build import Builder
from .room import outside, place_furniture
from .sky import sky


def _half_spaces(rng: np.random.Generator, eye: float) -> np.ndarray:
    """Return outward unit normals and offsets (N, 4), the floor first: n · p + d ≤ 0 inside.

    The camera, at height `eye`, is at least 0.4 m from each plane.
    """
    count = rng.integers(3, 9)
    size = np.exp(rng.uniform(np.log(1.5), np.log(9)))
    azimuth = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count * 2 * np.pi + rng.uniform(0, 2 * np.pi)
    # Most walls are vertical; some lean inwards from the height `knee`, a few outwards.
    lean = np.where(rng.uniform(size=count) < 0.6, 0.0, rng.uniform(-0.2, 1.0, count))
    reach, knee = size * rng.uniform(0.5, 1.3, count), rng.uniform(0.2, 1.5, count)
    pitches = rng.integers(1, 5)
    pitch = rng.uniform(0, 1.0, pitches) * rng.choice([0, 1])
    towards = rng.uniform(0, 2 * np.pi) + np.arange(pitches) / pitches * 2 * np.pi + rng.uniform(-0.2, 0.2, pitches)
    top = rng.uniform(0.5, 1.8, pitches) if size < 4 else rng.uniform(0.6, 4.5, pitches)
    angle = np.concatenate([azimuth, towards])
    rise = np.concatenate([lean, np.pi / 2 - pitch])
    normals = np.c_[np.cos(rise) * np.cos(angle), np.cos(rise) * np.sin(angle), np.sin(rise)]
    through = np.c_[np.cos(angle), np.sin(angle), np.zeros(len(angle))]
    through[:count] = through[:count] * reach[:, None] + np.c_[np.zeros((count, 2)), knee]
    through[count:] = np.c_[np.zeros((pitches, 2)), eye + top]
    offsets = -(normals * through).sum(1)
    offsets = np.minimum(offsets, -0.4 - normals[:, 2] * eye)
    # Bounds, so that the room is finite even if walls lean outwards.
    bounds = [[1, 0, 0, -20], [-1, 0, 0, -20], [0, 1, 0, -20], [0, -1, 0, -20], [0, 0, 1, -9]]
    return np.concatenate([[[0, 0, -1, 0]], np.c_[normals, offsets], bounds])


def _faces(spaces: np.ndarray, eye: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each plane's polygon: ordered corners (N, 3), outward normal (3,). Redundant planes are omitted."""
    corners = HalfspaceIntersection(spaces, np.array([0, 0, eye])).intersections
    found = []
    for *normal, offset in spaces:
        on = corners[np.abs(corners @ normal + offset) < 1e-6]
        on = on[np.unique(np.rint(on * 1e4), axis=0, return_index=True)[1]]
        if len(on) < 3:
            continue
        side = np.cross(normal, on[0] - on.mean(0))
        out = on - on.mean(0)
        order = np.argsort(np.arctan2(out @ side, out @ (on[0] - on.mean(0))))
        found.append((on[order], np.array(normal)))
    return found


def _cut_hole(rng: np.random.Generator, corners: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Cut a hole of the same shape into a polygon; return vertices, and the faces around the hole."""
    n, middle = len(corners), corners.mean(0)
    hole = middle + (corners - middle) * rng.uniform(0.25, 0.7)
    hole += (corners[rng.integers(n)] - middle) * rng.uniform(0, 0.25)
    return np.concatenate([corners, hole]), [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]


def cell(b: Builder) -> float:
    """Build a room of leaning walls and roofs, some with openings. Return the camera's height."""
    rng = b.rng
    sky(rng, bool(rng.uniform() < 0.25))
    eye = float(rng.uniform(1.2, 1.8))
    walls, ceilings = materials.choose(rng, "wall"), materials.choose(rng, rng.choice(["wall", "floor", "cloth"]))
    (floor, _), *others = _faces(_half_spaces(rng, eye), eye)
    b.mesh(floor, [tuple(range(len(floor)))], materials.choose(rng, "floor"), "floor")
    upper = []
    for corners, normal in others:
        upper.append(corners[corners[:, 2] > eye])
        label, material = ("ceiling", ceilings) if normal[2] > 0.4 else ("wall", walls)
        if rng.uniform() < 0.2:
            material = materials.choose(rng, "wall")
        chance = rng.uniform()
        if chance < 0.05:
            continue  # open to the outside
        vertices, around = corners, [tuple(range(len(corners)))]
        if chance < 0.3:
            vertices, around = _cut_hole(rng, corners)
        b.mesh(vertices, around, material, label)
    _lamps(b, np.concatenate(upper), eye)
    place_furniture(b, floor[:, :2], [(0.0, 0.0, 0.55)])
    outside(b, floor[:, :2])
    return eye


def _lamps(b: Builder, corners: np.ndarray, eye: float) -> None:
    """Add globes and tubes between the camera and upper corners, which lie inside because the room is convex."""
    rng = b.rng
    lamp = materials.emitter(rng, float(rng.uniform(5, 40)))
    camera = np.array([0, 0, eye])
    for _ in range(rng.integers(1, 5)):
        at = camera + (corners[rng.integers(len(corners))] - camera) * rng.uniform(0.4, 0.9)
        if rng.uniform() < 0.6:
            b.blob(tuple(at), (0.12, 0.12, 0.12), lamp, "lamp")
        else:
            b.box((0, 0, at[2]), (rng.uniform(0.4, 1.2), 0.06, 0.04), lamp, "lamp", rng.uniform(0, 3.1), tuple(at[:2]))
