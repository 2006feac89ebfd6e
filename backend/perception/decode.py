"""Decoded pictures → physical maps (reference: HKU-MMLab/OmniX, arXiv 2510.26800).

A decoded picture is (H, W, 3) float32 in [0, 1]; maps are as described in
shared/maps.py, in the frame of shared/imaging/sphere.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from ...shared.imaging import sphere

#: Minimum distance of a map, for black pixels; 0 would be at the camera.
MIN_DISTANCE = 1e-3


class DistanceDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Encoding of distance d ≤ 1 in a model's output. "linear": grey = d (OmniX). "log": d = ratio ** (grey − 1)."""

    encoding: Literal["linear", "log"] = "linear"
    ratio: float = 1 / MIN_DISTANCE


class NormalDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Axes of the normals in a model's output: "world" (OmniX), or those of each "column" of the panorama."""

    axes: Literal["world", "column"] = "world"


class Decode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model's outputs are decoded to maps, where models differ."""

    distance: DistanceDecode = DistanceDecode()
    normal: NormalDecode = NormalDecode()


def decode(target: str, picture: np.ndarray, options: Decode) -> dict[str, np.ndarray]:
    """Decode the output of stream `target` (depth, normal, albedo, pbr, semantic): map name → (H, W, C) float32."""
    match target:
        case "depth":
            return {"distance": _distance(picture, options.distance)}
        case "normal":
            return {"normal": _normal(picture, options.normal)}
        case "pbr":
            return {"roughness": picture[..., 0:1].copy(), "metallic": picture[..., 1:2].copy()}
        case "albedo" | "semantic":
            return {target: picture}
    raise ValueError(f"there is no stream {target!r}")


def _distance(picture: np.ndarray, options: DistanceDecode) -> np.ndarray:
    grey = picture.mean(axis=-1, keepdims=True, dtype=np.float32)
    distance = grey if options.encoding == "linear" else options.ratio ** (grey - 1)
    return np.maximum(distance, MIN_DISTANCE, dtype=np.float32)


def _normal(picture: np.ndarray, options: NormalDecode) -> np.ndarray:
    """OmniX's axes are X front, Y up, Z left; ours X front, Y left, Z up. A mid-grey pixel looks at the camera.

    A column's axes are its own front (away from the vertical axis), up and left.
    """
    normal = (2 * picture - 1)[..., [0, 2, 1]]
    if options.axes == "column":
        normal = np.einsum("wji,hwj->hwi", sphere.column_frames(normal.shape[1]), normal)
    return _unit(normal, -sphere.directions(*normal.shape[:2]))


def _unit(vectors: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), otherwise).astype(np.float32)


def normals_from_distance(distance: np.ndarray) -> np.ndarray:
    """Compute unit normals, towards the camera, of the surface of a distance map (H, W, 1): (H, W, 3) float32.

    Central differences of the points on their rays. Columns wrap; beyond a pole follows the same row, shifted by 180°.
    """
    height, width = distance.shape[:2]
    rays = sphere.directions(height, width)
    points = rays.astype(np.float64) * distance
    opposite = np.roll(points, width // 2, axis=1)
    tall = np.concatenate([opposite[:1], points, opposite[-1:]])  # (H + 2, W, 3)
    down = tall[2:] - tall[:-2]
    right = np.roll(points, -1, axis=1) - np.roll(points, 1, axis=1)
    normal = np.cross(down, right)
    normal *= -np.sign((normal * rays).sum(-1, keepdims=True))
    scale = np.linalg.norm(down, axis=-1, keepdims=True) * np.linalg.norm(right, axis=-1, keepdims=True)
    return _unit(normal / np.maximum(scale, np.finfo(np.float64).tiny), -rays)


def realign_yaw(normal: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, float]:
    """Turn `normal` (H, W, 3) about up until it agrees with `distance` (H, W, 1): (turned normals, yaw in degrees).

    OmniX's predicted yaw is not reliable (it snaps to a room's axes), while distance is independent of yaw. Each
    pixel votes for the angle between the horizontal parts of its two normals, by their lengths and its solid angle; the
    mode of the votes is taken, then the least-squares rotation of the voters within 15° of it. The mode is robust to
    edges and clutter. Without horizontal parts the yaw is 0.
    """
    predicted, geometric = normal.astype(np.float64), normals_from_distance(distance).astype(np.float64)
    turn = (geometric[..., 0] + 1j * geometric[..., 1]) * (predicted[..., 0] - 1j * predicted[..., 1])
    turn = turn * sphere.solid_angles(*distance.shape[:2])
    votes, edges = np.histogram(np.angle(turn), bins=360, range=(-np.pi, np.pi), weights=np.abs(turn))
    kernel = np.exp(-0.5 * (np.arange(-15, 16) / 5.0) ** 2)
    smooth = np.convolve(np.pad(votes, 15, mode="wrap"), kernel, mode="valid")
    mode = np.exp(1j * (edges[smooth.argmax()] + edges[1] - edges[0]))
    near = np.abs(np.angle(turn * np.conj(mode))) < np.radians(15)
    yaw_rad = float(np.angle(turn[near].sum())) if near.any() else 0.0
    return (normal @ sphere.yaw_matrix(yaw_rad).T).astype(np.float32), float(np.degrees(yaw_rad))
