"""Where rays meet the parts of a random object, in closed form: 30 times faster on a CPU than sphere tracing.

Parts are boxes, elliptic cylinders and ellipsoids with sharp edges, which don't melt into each other.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .objects import BOX, CYLINDER, ELLIPSOID, TORUS, Objects

#: Axes with two flat sides, and number of the axes that a round side is about.
_FLAT = {BOX: (0, 1, 2), CYLINDER: (2,), ELLIPSOID: ()}
_ROUND = {BOX: 0, CYLINDER: 2, ELLIPSOID: 3}
#: Smallest component of a direction.
_PARALLEL = 1e-6


def simplify(objects: Objects) -> None:
    """Make objects what rays can meet in closed form, in place."""
    objects.kind[objects.kind == TORUS] = ELLIPSOID
    objects.taper.zero_()
    objects.rounding.fill_(1e-4)
    objects.blend.fill_(1e-4)
    for axis in range(2):  # of a mirrored part, the half that is kept has the centre
        place = objects.centre[..., axis]
        place[objects.mirrored[..., axis]] = place[objects.mirrored[..., axis]].abs()


def meet(objects: Objects, start: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hits (N,), points and outward normals (N, 3), and the part (N,) that rays of an object first meet.

    `start`, `direction`: (N, 3) in the frame of the cameras, as the points; without a hit, the others mean nothing.
    `objects`: one, simplified.
    """
    nearest = start.new_full((len(start),), math.inf)
    normals, part = torch.zeros_like(start), torch.zeros_like(nearest, dtype=torch.int64)
    origin, along = start * objects.side[0] + objects.origin[0], direction * objects.side[0]
    for number in torch.nonzero(objects.exists[0])[:, 0].tolist():
        size, kind = objects.size[0, number], int(objects.kind[0, number])
        signs = [(1.0, -1.0) if mirrored else (1.0,) for mirrored in objects.mirrored[0, number].tolist()]
        for x, y in itertools.product(*signs):
            mirror = start.new_tensor([x, y, 1.0])
            axes = objects.axes[0, number] * mirror  # rows: the part's axes in the object's frame
            centre = objects.centre[0, number] * mirror
            entry, gradient = _enter(kind, (origin - centre) @ axes.T / size, along @ axes.T / size)
            closer = entry < nearest
            nearest[closer], part[closer] = entry[closer], number
            normals[closer] = gradient[closer] / size @ axes
    hits = nearest < math.inf
    points = start + torch.where(hits, nearest, 0.0)[:, None] * direction
    return hits, points, F.normalize(normals, dim=-1), part


def _enter(kind: int, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return where rays u + t v (N, 3) enter a part of half size 1, (N,), infinite without a hit, and its gradient
    there, (N, 3): the last of the surfaces that bound it is entered before the first is left."""
    near, far, gradient = u.new_full((len(u),), -math.inf), u.new_full((len(u),), math.inf), torch.zeros_like(u)
    for axis in _FLAT[kind]:
        inverse = 1 / torch.where(v[:, axis].abs() < _PARALLEL, _PARALLEL, v[:, axis])
        entry, leave = (-inverse.sign() - u[:, axis]) * inverse, (inverse.sign() - u[:, axis]) * inverse
        later = entry > near
        gradient[later] = 0
        gradient[later, axis] = -inverse.sign()[later]
        near, far = torch.maximum(near, entry), torch.minimum(far, leave)
    if _ROUND[kind]:
        p, q = u[:, : _ROUND[kind]], v[:, : _ROUND[kind]]
        a, b = q.square().sum(1).clamp_min(_PARALLEL**2), (p * q).sum(1)
        inside = b * b - a * (p.square().sum(1) - 1)
        width = inside.clamp_min(0).sqrt()
        entry, leave = (-b - width) / a, torch.where(inside > 0, (-b + width) / a, -math.inf)
        later = entry > near
        gradient[later] = 0
        gradient[later, : _ROUND[kind]] = (p + entry[:, None] * q)[later]
        near, far = torch.maximum(near, entry), torch.minimum(far, leave)
    return torch.where((near < far) & (near > 0), near, math.inf), gradient
