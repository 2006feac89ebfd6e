"""What cameras see of the random objects: sphere tracing (Hart 1996) in torch, on any device.

Six orthographic cameras (`backend/texturing/cameras.py`) see unlit colours, positions and normals; a seventh in
perspective, somewhere before the object, sees it lit: the reference picture. So a model learns to remove the light.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...texturing.cameras import AXES, DISTANCE, ORTHO_SCALE
from ...texturing.reference import FILL, GREY
from . import objects as shapes
from . import rays
from .objects import Objects

#: Steps of a ray, each a share of the distance, which narrowing parts and ellipsoids only bound; and the distance at
#: which it has arrived.
_STEPS, _SHARE, _ARRIVED = 56, 0.85, 0.002
#: The largest of the objects before they are fitted into the frame.
_LARGEST = 5.0


#: As `objects.distance`.
Distance = Callable[[Objects, Tensor], Tensor]
#: Hits (B, N), points and normals (B, N, 3), which mean nothing without a hit, and the parts (B, N), if known.
Traced = tuple[Tensor, Tensor, Tensor, Tensor | None]


@dataclass
class Sample:
    """Renderings of B objects at H pixels a side, channels first."""

    #: (B, 6, 3, H, H) sRGB in [0, 1], grey without the object.
    views: Tensor
    #: (B, 6, 6, H, H) in [0, 1], as `cameras.control_image`.
    control: Tensor
    #: (B, 3, H, H) sRGB in [0, 1], on grey.
    reference: Tensor


class Renderer:
    """Renders objects on a device; `compiled`: by kernels that torch compiles, worth it on a GPU.

    `exact`: simpler objects, one by one, in closed form (`rays`), for a CPU.
    """

    def __init__(self, device: torch.device, *, compiled: bool = False, exact: bool = False) -> None:
        self.device, self._exact = device, exact
        # Nearly all the time goes into distances; one kernel serves all sizes.
        self._distance: Distance = torch.compile(shapes.distance, dynamic=True) if compiled else shapes.distance
        self._axes = torch.tensor(AXES, dtype=torch.float32, device=device)

    @torch.no_grad()
    def render(self, count: int, seed: int, size: int) -> Sample:
        """Create and render `count` objects, determined by the seed."""
        objects = shapes.create(count, seed).to(self.device)
        if not self._exact:
            return self._render(objects, seed, size)
        rays.simplify(objects)
        singly = [self._render(objects.only(number), seed + number, size) for number in range(count)]
        names = [field.name for field in dataclasses.fields(Sample)]
        return Sample(**{name: torch.cat([getattr(one, name) for one in singly]) for name in names})

    def _render(self, objects: Objects, seed: int, size: int) -> Sample:
        count, objects = len(objects), self._fitted(objects, size)
        hits, points, normals, part = self._six(objects, size)
        colours = shapes.albedo(objects, points, normals, part)
        colours = torch.where(hits[..., None], colours, GREY)
        control = torch.where(hits[..., None], torch.cat([points + 0.5, normals / 2 + 0.5], dim=-1), 0.5).clamp(0, 1)
        return Sample(
            views=colours.view(count, 6, size, size, 3).movedim(-1, 2),
            control=control.view(count, 6, size, size, 6).movedim(-1, 2),
            reference=self._reference(objects, seed, size),
        )

    def _fitted(self, objects: Objects, size: int) -> Objects:
        """Return the objects with their bounding boxes centred and their longest side 1."""
        objects.side[:] = _LARGEST
        for _ in range(2):
            hits, points, *_ = self._six(objects, min(192, size))
            raw = points * objects.side[:, None, None] + objects.origin[:, None]
            low = torch.where(hits[..., None], raw, math.inf).amin(1)
            high = torch.where(hits[..., None], raw, -math.inf).amax(1)
            objects = dataclasses.replace(objects, origin=(low + high) / 2, side=(high - low).amax(-1))
        return objects

    def _six(self, objects: Objects, size: int) -> Traced:
        """Return what the six cameras see, N = 6 · size²."""
        at = ((torch.arange(size, device=self.device) + 0.5) / size - 0.5) * ORTHO_SCALE
        y, x = torch.meshgrid(-at, at, indexing="ij")
        right, up, towards = self._axes.unbind(1)
        start = x[..., None] * right[:, None, None] + y[..., None] * up[:, None, None]  # (6, size, size, 3)
        start = start + DISTANCE * towards[:, None, None]
        direction = -towards[:, None, None].expand_as(start)
        count = len(objects)
        start, direction = (v.reshape(1, -1, 3).expand(count, -1, -1) for v in (start, direction))
        return self._trace(objects, start, direction, 2.7)

    def _trace(self, objects: Objects, start: Tensor, direction: Tensor, far: float) -> Traced:
        if self._exact:
            hits, points, normals, part = rays.meet(objects, start[0], direction[0])
            return hits[None], points[None], normals[None], part[None]
        along = torch.zeros(start.shape[:2], device=self.device)
        for _ in range(_STEPS):
            step = self._distance(objects, start + along[..., None] * direction)
            # Rays that have arrived, or are past `far`, stay.
            along = torch.where(step > _ARRIVED / 4, (along + _SHARE * step).clamp_max(far), along)
        points = start + along[..., None] * direction
        arrived = self._distance(objects, points) < _ARRIVED  # a ray along the surface may be still on its way
        return arrived & (along < far), points, _normals(self._distance, objects, points), None

    def _reference(self, objects: Objects, seed: int, size: int) -> Tensor:
        """Return lit pictures (B, 3, size, size) of random cameras before the objects.

        They are framed as `reference.prepare` does.
        """
        count = len(objects)
        generator = torch.Generator().manual_seed(seed + 1)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return (torch.rand(count, *shape, generator=generator) * (high - low) + low).to(self.device)

        # Half of them from the very front, as people draw and photograph things.
        turn = torch.where(uniform(0, 1) < 0.5, uniform(-0.15, 0.15), uniform(-1.2, 1.2))
        azimuth = turn - math.pi / 2
        elevation = torch.where(uniform(0, 1) < 0.5, uniform(-0.05, 0.15), uniform(-0.2, 0.7))
        away = uniform(1.6, 6)
        towards = torch.stack(
            [azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], dim=-1
        )
        up = torch.tensor([0.0, 0.0, 1.0], device=self.device).expand_as(towards)
        right = F.normalize(torch.cross(up, towards, dim=-1), dim=-1)
        up = torch.cross(towards, right, dim=-1)
        eye = towards * away[:, None]

        def see(side: int, centre: Tensor, half: Tensor) -> tuple[Any, ...]:
            at = (torch.arange(side, device=self.device) + 0.5) / side * 2 - 1
            v, u = torch.meshgrid(-at, at, indexing="ij")
            u, v = u.reshape(1, -1) * half[:, None] + centre[:, :1], v.reshape(1, -1) * half[:, None] + centre[:, 1:]
            rays = F.normalize(u[..., None] * right[:, None] + v[..., None] * up[:, None] - towards[:, None], dim=-1)
            # Rays start before the sphere around the object's box.
            start = eye[:, None] + rays * (away - 0.9).clamp_min(0)[:, None, None]
            return (u, v, *self._trace(objects, start, rays, 2.4))

        u, v, hits, *_ = see(64, torch.zeros(count, 2, device=self.device), 0.87 / (away - 0.5))
        plane = torch.stack([u, v], dim=-1)
        low = torch.where(hits[..., None], plane, math.inf).amin(1)
        high = torch.where(hits[..., None], plane, -math.inf).amax(1)
        _, _, hits, points, normals, part = see(2 * size, (low + high) / 2, (high - low).amax(-1) / 2 / FILL)

        colour = shapes.albedo(objects, points, normals, part).clamp_min(1e-4) ** 2.2
        light = F.normalize(towards + right * uniform(-1, 1, 1) + up * uniform(-0.2, 1.3, 1), dim=-1)
        strength = torch.where(uniform(0, 1) < 0.25, 0.0, uniform(0.2, 1.2))  # a quarter is unlit, as drawings are
        tint = 1 + uniform(-0.12, 0.12, 3)
        occlusion = _occlusion(self._distance, objects, points, normals)[..., None]
        facing = (normals * light[:, None]).sum(-1, keepdim=True).clamp_min(0)
        ambient = 0.55 + 0.45 * normals[..., 2:] * uniform(0, 1, 1, 1)
        lit = ambient * (1 - (1 - occlusion) * uniform(0.3, 1, 1, 1)) * (1 - 0.45 * strength[:, None, None])
        lit = lit + facing * tint[:, None] * strength[:, None, None]
        lit = torch.where(strength[:, None, None] > 0, lit, 1.0)
        half = F.normalize(light + towards, dim=-1)
        gloss = (normals * half[:, None]).sum(-1, keepdim=True).clamp_min(0) ** (8 * 2 ** uniform(0, 4, 1, 1))
        gloss = gloss * uniform(-0.2, 0.35, 1, 1).clamp_min(0) * strength[:, None, None]
        shown = (colour * lit * uniform(0.85, 1.2, 1, 1) + gloss).clamp(0, 1) ** (1 / 2.2)
        shown = torch.where(hits[..., None], shown, GREY).view(count, 2 * size, 2 * size, 3).movedim(-1, 1)
        return F.avg_pool2d(shown, 2)


def _normals(distance: Distance, objects: Objects, points: Tensor) -> Tensor:
    """Return the unit gradient (B, N, 3) of the distance."""
    gradient = torch.zeros_like(points)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = torch.tensor(corner, dtype=points.dtype, device=points.device)
        gradient = gradient + offset * distance(objects, points + _ARRIVED / 2 * offset)[..., None]
    return F.normalize(gradient, dim=-1)


def _occlusion(distance: Distance, objects: Objects, points: Tensor, normals: Tensor) -> Tensor:
    """Return how open the surroundings of surface points (B, N) are, in [0, 1] (Evans 2006)."""
    hidden = torch.zeros(points.shape[:2], device=points.device)
    for tap in range(1, 5):
        height = 0.05 * tap
        hidden = hidden + (height - distance(objects, points + height * normals)).clamp_min(0) * 0.6**tap / height
    return (1 - hidden).clamp(0, 1)
