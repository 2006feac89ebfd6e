"""What cameras see of the random objects: sphere tracing (Hart 1996) in torch, on any device.

Six orthographic cameras (`backend/texturing/cameras.py`) see unlit colours, positions and normals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...texturing.cameras import AXES, DISTANCE, ORTHO_SCALE
from ...texturing.reference import GREY
from . import objects as shapes
from . import rays
from .objects import Objects

#: Steps of a ray, each a share of the distance, which narrowing parts and ellipsoids only bound; and the distance at
#: which it has arrived.
_STEPS, _SHARE, _ARRIVED = 56, 0.85, 0.002
#: The largest of the objects before they are fitted into the frame.
_LARGEST = 5.0
#: Size in pixels of the views that find their bounding boxes.
_FITTED = 64


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
            return self._render(objects, size)
        rays.simplify(objects)
        singly = [self._render(objects.only(number), size) for number in range(count)]
        names = [field.name for field in dataclasses.fields(Sample)]
        return Sample(**{name: torch.cat([getattr(one, name) for one in singly]) for name in names})

    def _render(self, objects: Objects, size: int) -> Sample:
        count, objects = len(objects), self._fitted(objects, size)
        hits, points, normals, part = self._six(objects, size)
        colours = shapes.albedo(objects, points, normals, part)
        colours = torch.where(hits[..., None], colours, GREY)
        control = torch.where(hits[..., None], torch.cat([points + 0.5, normals / 2 + 0.5], dim=-1), 0.5).clamp(0, 1)
        return Sample(
            views=colours.view(count, 6, size, size, 3).movedim(-1, 2),
            control=control.view(count, 6, size, size, 6).movedim(-1, 2),
        )

    def _fitted(self, objects: Objects, size: int) -> Objects:
        """Return the objects with their bounding boxes centred and their longest side 1."""
        objects.side[:] = _LARGEST
        for _ in range(2):
            hits, points, *_ = self._six(objects, min(_FITTED, size))
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


def _normals(distance: Distance, objects: Objects, points: Tensor) -> Tensor:
    """Return the unit gradient (B, N, 3) of the distance."""
    gradient = torch.zeros_like(points)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = torch.tensor(corner, dtype=points.dtype, device=points.device)
        gradient = gradient + offset * distance(objects, points + _ARRIVED / 2 * offset)[..., None]
    return F.normalize(gradient, dim=-1)
