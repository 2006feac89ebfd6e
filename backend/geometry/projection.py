"""Project between perspective pictures and panoramas, and limit detail near the poles (frame: shared.imaging.sphere).

A camera looks along +X, its left is +Y and its top +Z; then it is rolled, pitched and yawed, in this order, about the
world's axes. Positive yaw turns it left, pitch up, roll clockwise as seen by the photographer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from ...shared.imaging.fov import check_fov

#: Value of a canvas outside the picture: the middle of [0, 1], 127.5 in eight bits.
GREY = 0.5
#: Minimum and maximum number of samples per pixel along each side.
_SAMPLES, _MAX_SAMPLES = 2, 8


def world_from_camera(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the camera's rotation, (3, 3) float64, for angles in degrees."""
    return Rotation.from_euler("xyz", [roll, -pitch, yaw], degrees=True).as_matrix()


def panorama_from_picture(
    picture: np.ndarray, height: int, fov_x: float, *, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Project a picture into a panorama: (canvas (height, 2 · height, C) float32, coverage (height, 2 · height)).

    Args:
        picture: (h, w, C) float32, of square pixels.
        fov_x: horizontal field of view, in degrees, as are yaw, pitch and roll.

    Pixels not fully covered by the picture are mid-grey. Raise SettingError for an invalid field of view.
    """
    check_fov(fov_x)
    tan_x = math.tan(math.radians(fov_x) / 2)
    tan_y = tan_x * picture.shape[0] / picture.shape[1]
    source = _tensor(picture)
    # A picture of higher resolution than the samples is downscaled to theirs first, to avoid aliasing.
    finer = math.pi * picture.shape[1] / (2 * height * _SAMPLES * tan_x)
    if finer > 1:
        size = [max(1, round(side / finer)) for side in picture.shape[:2]]
        source = F.interpolate(source, size, mode="bilinear", antialias=True)
    camera_from_world = world_from_camera(yaw, pitch, roll).T
    total, covered = (
        torch.zeros(1, picture.shape[2], height, 2 * height),
        torch.ones(height, 2 * height, dtype=torch.bool),
    )
    for dx, dy in _offsets(_SAMPLES):
        rays = _rays(height, dx, dy) @ camera_from_world.T  # [H, W, 3]
        x, y, z = np.moveaxis(rays, -1, 0)
        ahead = np.where(x > 1e-6, x, np.inf)
        across, down = -y / ahead / tan_x, -z / ahead / tan_y  # in [-1, 1] inside the picture
        covered &= torch.from_numpy((x > 1e-6) & (np.abs(across) <= 1) & (np.abs(down) <= 1))
        total += _sample(source, across, down)
    canvas = torch.where(covered, total / _SAMPLES**2, GREY)
    return _array(canvas), covered.numpy()


def picture_from_panorama(
    panorama: np.ndarray,
    height: int,
    width: int,
    fov_x: float,
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
) -> np.ndarray:
    """Render a perspective view of a panorama (H, W, C): (height, width, C) float32.

    Angles are in degrees. Raise SettingError for an invalid field of view.
    """
    check_fov(fov_x)
    tan_x = math.tan(math.radians(fov_x) / 2)
    tan_y = tan_x * height / width
    samples = math.ceil(panorama.shape[1] * 2 * tan_x / (2 * math.pi * width))
    samples = min(max(samples, _SAMPLES), _MAX_SAMPLES)
    total = torch.zeros(1, panorama.shape[2], height, width)
    padded = _pad_edges(_tensor(panorama))
    rotation = world_from_camera(yaw, pitch, roll)
    for dx, dy in _offsets(samples):
        left = tan_x * (1 - 2 * (np.arange(width) + dx) / width)
        up = tan_y * (1 - 2 * (np.arange(height) + dy) / height)
        rays = np.stack(np.broadcast_arrays(1.0, left[None, :], up[:, None]), axis=-1) @ rotation.T  # [h, w, 3]
        lon, lat = (
            np.arctan2(rays[..., 1], rays[..., 0]),
            np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1])),
        )
        # From [-1, 1] of the panorama to that of the panorama padded by one pixel on every side.
        inner_h, inner_w = panorama.shape[:2]
        across, down = -lon / math.pi * inner_w / (inner_w + 2), -lat / (math.pi / 2) * inner_h / (inner_h + 2)
        total += _sample(padded, across, down)
    return _array(total / samples**2)


def limit_poles(panorama: np.ndarray) -> np.ndarray:
    """Return the panorama (H, W, C) without streaks at its poles, float32.

    At colatitude θ a row is a circle as long as W · sin θ pixels at the equator, so each row is blurred horizontally
    until its pixels are as wide on the sphere as they are high: by a Gaussian of half such a pixel, less the pixel's
    own width. The equator stays unchanged, and the outermost rows become nearly uniform.
    """
    height, width = panorama.shape[:2]
    colatitude = (np.arange(height) + 0.5) / height * math.pi
    variance_px = 0.25 * (1 / np.sin(colatitude) ** 2 - 1)
    waves = 2 * math.pi * np.arange(width // 2 + 1) / width
    keep = np.exp(-0.5 * variance_px[:, None] * waves**2)
    return np.fft.irfft(np.fft.rfft(panorama, axis=1) * keep[..., None], width, axis=1).astype(np.float32)


def _offsets(samples: int) -> list[tuple[float, float]]:
    """Return the positions of the samples in a pixel."""
    places = [(i + 0.5) / samples for i in range(samples)]
    return [(dx, dy) for dx in places for dy in places]


def _rays(height: int, dx: float, dy: float) -> np.ndarray:
    """Return unit rays through this position in each pixel of a panorama, (H, 2H, 3)."""
    lon = (0.5 - (np.arange(2 * height) + dx) / (2 * height)) * 2 * math.pi
    lat = (0.5 - (np.arange(height) + dy) / height)[:, None] * math.pi
    return np.stack(np.broadcast_arrays(np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=-1)


def _pad_edges(panorama: Tensor) -> Tensor:
    """(1, C, H, W) → (1, C, H + 2, W + 2): pad across the seam, and beyond a pole with the same row shifted by 180°."""
    half = panorama.shape[-1] // 2
    tall = torch.cat([panorama[..., :1, :].roll(half, -1), panorama, panorama[..., -1:, :].roll(half, -1)], dim=-2)
    return F.pad(tall, (1, 1, 0, 0), mode="circular")


def _sample(picture: Tensor, across: np.ndarray, down: np.ndarray) -> Tensor:
    """Sample (1, C, h, w) bilinearly at coordinates in [-1, 1] from edge to edge: (1, C, *coordinates)."""
    grid = torch.from_numpy(np.stack([across, down], axis=-1).astype(np.float32))[None]
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]


def _array(picture: Tensor) -> np.ndarray:
    return picture[0].permute(1, 2, 0).contiguous().numpy()
