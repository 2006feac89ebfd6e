"""Load and augment rendered scenes, and encode them as the pictures that the model reads and writes.

The layout of a data folder is described in evaluation/ground_truth.py. Scenes smaller than the training height are
upsampled. Pictures are (N, 3, H, W) in [0, 1]; longitude is the last axis.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...shared.imaging import sphere
from ..evaluation import ground_truth
from ..lighting import exposure
from .architecture import DISTANCE_RATIO
from .colour import srgb_from_linear

#: Distance that is encoded as white, in metres; the sky and larger distances are white too.
FAR_M = 51.2
#: Finite stand-in for the sky's infinite distance, in metres.
_SKY_M = 60000


def _tensors(scene: Path) -> dict[str, np.ndarray]:
    """Read a scene as float16 (C, H, W): exposed linear `rgb`, `distance`, `normal`, `albedo`, `pbr`, `semantic`."""
    maps = ground_truth.read_scene(scene)
    record = exposure.expose(maps["panorama"], "linear")[1]
    assert record is not None
    maps["rgb"] = np.minimum(maps.pop("panorama") * float(record["exposure"]), 60000)
    sky = ~np.isfinite(maps["distance"])
    maps["distance"] = np.where(sky, _SKY_M, maps["distance"])
    # The sky's normals face the camera. Its albedo and pbr are not used.
    facing = -sphere.directions(*sky.shape[:2])
    maps["normal"] = np.where((maps["normal"] == 0).all(-1, keepdims=True), facing, maps["normal"])
    maps["pbr"] = np.concatenate([maps.pop("roughness"), maps.pop("metallic"), np.zeros_like(sky, np.float32)], -1)
    return {name: pixels.transpose(2, 0, 1).astype(np.float16) for name, pixels in maps.items()}


class Scenes:
    """All scenes of a data folder, on `device`; `refresh` adds those rendered since."""

    def __init__(self, folder: Path, height: int, device: torch.device) -> None:
        self.folder, self.height, self.device = folder, height, device
        self.names: list[str] = []
        self._maps: dict[str, Tensor] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self.names)

    def refresh(self) -> None:
        """Load new scenes. Raise InputError as `ground_truth.scenes` does."""
        known = set(self.names)
        new = [path for path in ground_truth.scenes(self.folder, self.height) if path.name not in known]
        if not new:
            return
        loaded = [_tensors(path) for path in new]
        for name in loaded[0]:
            fresh = torch.from_numpy(np.stack([maps[name] for maps in loaded])).to(self.device)
            self._maps[name] = torch.cat([self._maps[name], fresh]) if name in self._maps else fresh
        self.names += [path.name for path in new]

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the scenes of these indices: name → (N, C, H, W) float32."""
        return {name: maps[indices.to(maps.device)].float() for name, maps in self._maps.items()}

    def random_batch(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a random batch; `generator` is on `device`."""
        return self.take(torch.randint(len(self), (batch,), generator=generator, device=generator.device))


def find_scenes(data: Path, split: str, height: int, device: torch.device) -> list[Scenes]:
    """Return the scenes of DATA/HEIGHT/`split` of this height and of its divisors, the smallest first.

    Raise InputError as `ground_truth.scenes` does.
    """
    heights = sorted(int(path.parent.name) for path in data.glob(f"*/{split}") if path.parent.name.isdecimal())
    fitting = [h for h in heights if h > 0 and height % h == 0] or [height]
    return [Scenes(data / str(h) / split, h, device) for h in fitting]


def turn(maps: dict[str, Tensor], columns: int, mirror: bool) -> dict[str, Tensor]:
    """Rotate scenes about the vertical by a number of columns to the right, and mirror them left to right.

    Normals are transformed accordingly. A column to the right is 2π / W clockwise seen from above.
    """
    out = {name: pixels.roll(columns, -1) for name, pixels in maps.items()}
    width = out["normal"].shape[-1]
    matrix = torch.from_numpy(sphere.yaw_matrix(-2 * math.pi * columns / width)).to(out["normal"])
    out["normal"] = torch.einsum("ij,njhw->nihw", matrix, out["normal"])
    if mirror:
        out = {name: pixels.flip(-1) for name, pixels in out.items()}
        out["normal"] = out["normal"] * out["normal"].new_tensor([1.0, -1.0, 1.0])[:, None, None]
    return out


def stretch(
    maps: dict[str, Tensor], along: Tensor, up: Tensor, down: Tensor, height: int | None = None
) -> dict[str, Tensor]:
    """Stretch scenes by factors (N,): `along` their walls, `up` above and `down` below the camera.

    The result has `height`, or that of `maps`, and the distances and normals of the stretched scene. This varies the
    proportions of rooms, and the height of ceilings independently of the floor (Sun et al., HorizonNet, arXiv
    1901.03861, stretch rooms along two walls).
    """
    width = maps["normal"].shape[-1]
    height = height or width // 2
    rays = torch.from_numpy(sphere.directions(height, 2 * height)).to(along).permute(2, 0, 1)[None]
    yaw = _wall_yaw(maps["normal"])
    axis = torch.stack([yaw.cos(), yaw.sin()], 1)[:, :, None, None]
    along, up, down = (factor[:, None, None, None] for factor in (along, up, down))
    lift = torch.where(rays[:, 2:] > 0, up, down)

    def shrunk(vectors: Tensor) -> Tensor:
        """Apply the inverse of the stretch, which maps rays to their source and normals to their new direction."""
        flat = vectors[:, :2]
        flat = flat + (axis * flat).sum(1, keepdim=True) * axis * (1 / along - 1)
        return torch.cat([flat, vectors[:, 2:] / lift], 1)

    source = shrunk(rays)
    length = source.norm(dim=1, keepdim=True)
    u = 0.5 - torch.atan2(source[:, 1], source[:, 0]) / (2 * math.pi)
    v = 0.5 - torch.asin((source[:, 2] / length[:, 0]).clamp(-1, 1)) / math.pi
    # Pad by one column on each side, circularly.
    grid = torch.stack([2 * (u * width + 1) / (width + 2) - 1, 2 * v - 1], -1)

    def sampled(pixels: Tensor, mode: str) -> Tensor:
        around = F.pad(pixels, (1, 1, 0, 0), mode="circular")
        return F.grid_sample(around, grid, mode, "border", align_corners=False)

    out = {name: sampled(pixels, "nearest" if name == "semantic" else "bilinear") for name, pixels in maps.items()}
    # Don't interpolate across depth discontinuities.
    nearest = sampled(maps["distance"], "nearest")
    distance = torch.where((out["distance"] / nearest - 1).abs() < 0.1, out["distance"], nearest)
    sky = nearest >= _SKY_M
    out["distance"] = torch.where(sky, _SKY_M, distance / length)
    out["normal"] = torch.where(sky, -rays, F.normalize(shrunk(out["normal"]), dim=1))
    return out


def enlarge(maps: dict[str, Tensor], height: int) -> dict[str, Tensor]:
    """Resample scenes to `height`."""
    same = maps["normal"].new_ones(len(maps["normal"]))
    return stretch(maps, same, same, same, height)


def _wall_yaw(normal: Tensor) -> Tensor:
    """Return the dominant direction of walls modulo quarter turns: (N, 3, H, W) → (N,) radians."""
    z = torch.complex(normal[:, 0], normal[:, 1])
    return (z**4).sum((1, 2)).angle() / 4


def display(rgb: Tensor) -> Tensor:
    """Convert exposed linear light to an sRGB picture in [0, 1], with the curve of lighting/exposure.py."""
    knee = exposure.KNEE
    over = (rgb - knee).clamp_min(0) / (1 - knee)
    shown = torch.where(rgb <= knee, rgb, knee + (1 - knee) * over / (1 + over))
    return srgb_from_linear(shown)


def _jpeg(picture: Tensor, strength: Tensor) -> Tensor:
    """Quantise 8 × 8 blocks as JPEG does; `strength` (N, 1, 1, 1) is the step of the lowest frequency."""
    k = torch.arange(8, device=picture.device, dtype=picture.dtype)
    dct = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    dct[0] *= 0.5**0.5
    basis = torch.einsum("ai,bj->abij", dct, dct).reshape(64, 1, 8, 8)
    n, c, h, w = picture.shape
    blocks = F.conv2d(picture.reshape(n * c, 1, h, w), basis, stride=8).reshape(n, c, 64, h // 8, w // 8)
    step = (strength * (1 + (k[:, None] + k[None]) / 2).reshape(1, 64, 1, 1))[:, None]
    blocks = (blocks / step).round() * step
    return F.conv_transpose2d(blocks.reshape(n * c, 64, h // 8, w // 8), basis, stride=8).reshape(n, c, h, w)


def augment(maps: dict[str, Tensor], generator: torch.Generator, height: int | None = None) -> dict[str, Tensor]:
    """Augment scenes: rotation, mirroring, stretching, permuted colours, exposure, white balance, noise and JPEG.

    The result has `height`, or that of `maps`; `rgb` becomes display sRGB. Colour channels are permuted in light and
    albedo alike, which is physically consistent, since Cycles computes the channels independently.
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
    chosen = (uniform(0, 1, n) < 0.7).float()
    along, up, down = (2 ** (chosen * uniform(-most, most, n)) for most in (0.8, 0.5, 0.5))
    maps = stretch(maps, along, up, down, height)
    rgb = maps["rgb"] * 2 ** (uniform(-0.7, 0.7, n, 1, 1, 1) + uniform(-0.25, 0.25, n, 3, 1, 1))
    picture = display(rgb)
    noise = torch.randn(picture.shape, generator=generator, device=generator.device)
    picture = picture + noise * uniform(-0.02, 0.03, n, 1, 1, 1).clamp_min(0)
    damaged = _jpeg(picture, uniform(0.01, 0.2, n, 1, 1, 1))
    picture = torch.where(uniform(0, 1, n, 1, 1, 1) < 0.3, damaged, picture)
    return maps | {"rgb": picture.clamp(0, 1)}


def pictures(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encode maps as the streams' pictures, (N, 3, H, W) in [0, 1], the inverse of perception/decode.py.

    `maps["rgb"]` must be display sRGB.
    """
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
    """Return the area of a level picture of random width (44° to 122°) and shape: (H, W) bool."""
    rays = torch.from_numpy(sphere.directions(height, 2 * height))
    wide, shape = torch.rand(2, generator=generator, device=generator.device).tolist()
    wide = 0.4 + 1.4 * wide
    tall = wide * (0.5 + shape)
    x, y, z = rays.unbind(-1)
    return (x > 0) & (y.abs() <= wide * x) & (z.abs() <= tall * x)


def masked(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Mask panoramas with the area of a level perspective picture; the rest is grey, as in geometry/projection.py."""
    seen = _perspective_mask(picture.shape[-2], generator).to(picture.device)
    return torch.where(seen, picture, 0.5)
