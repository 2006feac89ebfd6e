"""Rendered scenes in memory, drawn as the pictures that the model reads and writes, and augmented.

A data folder is laid out as backend/truth.py tells. Pictures are (N, 3, H, W) in [0, 1]; longitude is the last axis.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...shared import sphere
from .. import exposure, truth
from .architecture import DISTANCE_RATIO

#: Distance that is drawn white, in metres; sky and all beyond it are white too.
FAR_M = 51.2


def _tensors(scene: Path) -> dict[str, np.ndarray]:
    """One scene as float16 (C, H, W): exposed linear `rgb`, `distance`, `normal`, `albedo`, `pbr`, `semantic`."""
    maps = truth.read_scene(scene)
    record = exposure.expose(maps["panorama"], "linear")[1]
    assert record is not None
    maps["rgb"] = np.minimum(maps.pop("panorama") * float(record["exposure"]), 60000)
    sky = ~np.isfinite(maps["distance"])
    maps["distance"] = np.where(sky, 60000, maps["distance"])
    # What the sky looks like as a surface: far, facing the camera. Its albedo and pbr are not asked for.
    facing = -sphere.directions(*sky.shape[:2])
    maps["normal"] = np.where((maps["normal"] == 0).all(-1, keepdims=True), facing, maps["normal"])
    maps["pbr"] = np.concatenate([maps.pop("roughness"), maps.pop("metallic"), np.zeros_like(sky, np.float32)], -1)
    return {name: pixels.transpose(2, 0, 1).astype(np.float16) for name, pixels in maps.items()}


class Scenes:
    """All scenes of a data folder, on `device`; `refresh` takes up what has been rendered since."""

    def __init__(self, folder: Path, height: int, device: torch.device) -> None:
        self.folder, self.height, self.device = folder, height, device
        self.names: list[str] = []
        self._maps: dict[str, Tensor] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self.names)

    def refresh(self) -> None:
        """Raises InputError as `truth.scenes` does."""
        known = set(self.names)
        new = [path for path in truth.scenes(self.folder, self.height) if path.name not in known]
        if not new:
            return
        loaded = [_tensors(path) for path in new]
        for name in loaded[0]:
            fresh = torch.from_numpy(np.stack([maps[name] for maps in loaded])).to(self.device)
            self._maps[name] = torch.cat([self._maps[name], fresh]) if name in self._maps else fresh
        self.names += [path.name for path in new]

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Name → (N, C, H, W) float32."""
        return {name: maps[indices.to(maps.device)].float() for name, maps in self._maps.items()}

    def shuffled(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A batch drawn at random, by a generator on `device`."""
        return self.take(torch.randint(len(self), (batch,), generator=generator, device=generator.device))


def turn(maps: dict[str, Tensor], columns: int, mirror: bool) -> dict[str, Tensor]:
    """The scenes turned about the vertical by a number of columns (to the right), and mirrored left to right.

    Normals turn and mirror with their surfaces. A column to the right is 2π / W clockwise seen from above.
    """
    out = {name: pixels.roll(columns, -1) for name, pixels in maps.items()}
    width = out["normal"].shape[-1]
    matrix = torch.from_numpy(sphere.yaw_matrix(-2 * math.pi * columns / width)).to(out["normal"])
    out["normal"] = torch.einsum("ij,njhw->nihw", matrix, out["normal"])
    if mirror:
        out = {name: pixels.flip(-1) for name, pixels in out.items()}
        out["normal"] = out["normal"] * out["normal"].new_tensor([1.0, -1.0, 1.0])[:, None, None]
    return out


def display(rgb: Tensor) -> Tensor:
    """Exposed linear light → the sRGB picture in [0, 1], by the curve of exposure.py."""
    knee = exposure.KNEE
    over = (rgb - knee).clamp_min(0) / (1 - knee)
    shown = torch.where(rgb <= knee, rgb, knee + (1 - knee) * over / (1 + over))
    return torch.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def _jpeg(picture: Tensor, strength: Tensor) -> Tensor:
    """What JPEG's quantisation does to 8 × 8 blocks; strength (N, 1, 1, 1) is the step of the lowest frequency."""
    k = torch.arange(8, device=picture.device, dtype=picture.dtype)
    dct = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    dct[0] *= 0.5**0.5
    basis = torch.einsum("ai,bj->abij", dct, dct).reshape(64, 1, 8, 8)
    n, c, h, w = picture.shape
    blocks = F.conv2d(picture.reshape(n * c, 1, h, w), basis, stride=8).reshape(n, c, 64, h // 8, w // 8)
    step = (strength * (1 + (k[:, None] + k[None]) / 2).reshape(1, 64, 1, 1))[:, None]
    blocks = (blocks / step).round() * step
    return F.conv_transpose2d(blocks.reshape(n * c, 64, h // 8, w // 8), basis, stride=8).reshape(n, c, h, w)


def augment(maps: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Turned, mirrored, in another exposure and white balance, some in other colours, with noise and JPEG.

    `rgb` becomes display sRGB. Other colours: red, green and blue change places in light and albedo alike, which is as
    true a scene, since Cycles carries each by itself.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low

    width = maps["rgb"].shape[-1]
    columns = int(torch.randint(width, (1,), generator=generator, device=generator.device))
    maps = turn(maps, columns, mirror=bool(uniform(0, 1, 1) < 0.5))
    if uniform(0, 1, 1) < 1 / 3:
        order = torch.randperm(3, generator=generator, device=generator.device)
        maps = maps | {name: maps[name][:, order] for name in ("rgb", "albedo")}
    n = maps["rgb"].shape[0]
    rgb = maps["rgb"] * 2 ** (uniform(-0.7, 0.7, n, 1, 1, 1) + uniform(-0.25, 0.25, n, 3, 1, 1))
    picture = display(rgb)
    noise = torch.randn(picture.shape, generator=generator, device=generator.device)
    picture = picture + noise * uniform(-0.02, 0.03, n, 1, 1, 1).clamp_min(0)
    damaged = _jpeg(picture, uniform(0.01, 0.2, n, 1, 1, 1))
    picture = torch.where(uniform(0, 1, n, 1, 1, 1) < 0.3, damaged, picture)
    return maps | {"rgb": picture.clamp(0, 1)}


def pictures(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each stream's picture, (N, 3, H, W) in [0, 1], as backend/maps.py decodes it; `rgb` is display sRGB already."""
    frames = torch.from_numpy(sphere.column_frames(maps["normal"].shape[-1])).to(maps["normal"])
    normal = torch.einsum("wij,njhw->nihw", frames, maps["normal"])
    grey = 1 + torch.log(maps["distance"].clamp_min(1e-3) / FAR_M) / math.log(DISTANCE_RATIO)
    return {
        "rgb": maps["rgb"],
        "depth": grey.clamp(0, 1).expand(-1, 3, -1, -1),
        # OmniX's order: front, up, left.
        "normal": normal[:, [0, 2, 1]] / 2 + 0.5,
        "albedo": maps["albedo"],
        "pbr": maps["pbr"],
        "semantic": maps["semantic"],
    }


def _perspective_mask(height: int, generator: torch.Generator) -> Tensor:
    """What a level picture of a random width (44° to 122°) and shape shows of the panorama: (H, W) bool."""
    rays = torch.from_numpy(sphere.directions(height, 2 * height))
    wide, shape = torch.rand(2, generator=generator, device=generator.device).tolist()
    wide = 0.4 + 1.4 * wide
    tall = wide * (0.5 + shape)
    x, y, z = rays.unbind(-1)
    return (x > 0) & (y.abs() <= wide * x) & (z.abs() <= tall * x)


def masked(picture: Tensor, generator: torch.Generator) -> Tensor:
    """What a level perspective picture shows of each panorama; the rest is grey, as projection.py leaves it."""
    seen = _perspective_mask(picture.shape[-2], generator).to(picture.device)
    return torch.where(seen, picture, 0.5)
