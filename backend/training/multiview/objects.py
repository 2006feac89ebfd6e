"""Random painted objects, as signed distances and colours in closed form: a batch of them as tensors.

An object is a smooth union of boxes, cylinders, cones, ellipsoids and tori, most of them mirrored left to right. Each
part has a material of two colours in a pattern; marks on the front (eyes, labels), and a colour of all that is below a
height, run over the parts. Z is up, and the front faces −Y.

Distances: Inigo Quilez, iquilezles.org/articles/distfunctions (box, cylinder, torus, and the bound of an ellipsoid).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

PARTS = 8
_MARKS = 3
#: Kinds of parts, and of patterns.
BOX, CYLINDER, ELLIPSOID, TORUS = range(4)
_PLAIN, _STRIPES, _CHECKER, _DOTS, _BLOBS, _GRADIENT = range(6)
#: Width of the border between two colours, as a share of the object's size.
_SOFT = 0.004


@dataclass
class Objects:
    """A batch of B objects with up to `PARTS` parts; lengths in units of its own (`origin` and `side` map to them)."""

    #: (B, PARTS) int64, and whether the part exists.
    kind: Tensor
    exists: Tensor
    #: (B, PARTS, 3) half sizes and centres; (B, PARTS) radius of edges, and narrowing towards the top, in [0, 1).
    size: Tensor
    centre: Tensor
    rounding: Tensor
    taper: Tensor
    #: (B, PARTS, 3, 3): rows are a part's own axes.
    axes: Tensor
    #: (B, PARTS, 2) bool: mirrored in x, in y.
    mirrored: Tensor
    #: (B,) radius over which parts melt into each other.
    blend: Tensor
    #: (B, PARTS) int64; (B, PARTS, 2, 3) sRGB in [0, 1]; (B, PARTS) patterns per unit of length, and phase.
    pattern: Tensor
    colours: Tensor
    frequency: Tensor
    phase: Tensor
    #: Whether a pattern lies in the part's own axes, or in those of the object, (B, PARTS) bool.
    own_axes: Tensor
    #: Marks on the front: (B, MARKS, 2) x and z, (B, MARKS) radius (0: none), inner radius as a share, squareness,
    #: (B, MARKS, 3) colour.
    mark_place: Tensor
    mark_radius: Tensor
    mark_hole: Tensor
    mark_square: Tensor
    mark_colour: Tensor
    #: (B,) height below which a part of the object has (B, 3) another colour; very low: nowhere.
    dip: Tensor
    dip_colour: Tensor
    #: (B, 6, 3) wave vectors and (B, 6) phases of the blobs.
    waves: Tensor
    wave_phase: Tensor
    #: Map from the frame of the cameras (centred, longest side 1) to these units: p · side + origin. (B, 3), (B,).
    origin: Tensor
    side: Tensor

    def to(self, device: torch.device) -> Objects:
        """Return the objects on another device."""
        return Objects(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def only(self, number: int) -> Objects:
        """Return a batch of one of the objects, with the parts alone that exist."""
        exists = self.exists[number]
        chosen = {field.name: getattr(self, field.name)[number : number + 1] for field in fields(self)}
        return Objects(
            **{name: value[:, exists] if value.shape[1:2] == exists.shape else value for name, value in chosen.items()}
        )

    def __len__(self) -> int:
        return len(self.kind)


class _Random:
    """Draws of a generator."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self._generator) * (high - low) + low

    def chance(self, *shape: int, p: float) -> Tensor:
        return torch.rand(shape, generator=self._generator) < p

    def choose(self, *shape: int, weights: list[float]) -> Tensor:
        return torch.multinomial(
            torch.tensor(weights, dtype=torch.float32), math.prod(shape), replacement=True, generator=self._generator
        ).view(shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)


def create(count: int, seed: int) -> Objects:
    """Return `count` random objects, determined by the seed, on the CPU. Their frame is not fitted yet."""
    random = _Random(seed)
    shape = (count, PARTS)
    kind = random.choose(*shape, weights=[0.3, 0.25, 0.35, 0.1])
    size = random.uniform(*shape, 3, low=0.1, high=0.4)
    size[:, 0] = random.uniform(count, 3, low=0.25, high=0.6)
    even = random.chance(*shape, p=0.5)  # round from above
    size[..., 1] = torch.where(even | (kind == TORUS), size[..., 0], size[..., 1])
    long = random.chance(*shape, p=0.25)
    size[..., 2] = torch.where(long, size[..., 2] * 2, size[..., 2])
    exists = torch.arange(PARTS) < random.choose(count, weights=[1.5, 2, 2, 2, 1.5, 1, 1, 1])[:, None] + 1
    turned = random.chance(*shape, p=0.4)
    axes = _rotations(random.normal(*shape, 4))
    axes[~turned] = torch.eye(3)
    # Each part is attached to the surface of an earlier one, more often above, below or beside than in between.
    centre = torch.zeros(*shape, 3)
    direction = random.normal(*shape, 3)
    straight = random.chance(*shape, p=0.5)
    axis = torch.nn.functional.one_hot(random.choose(*shape, weights=[1, 0.5, 1.5]), 3) * direction.sign()
    direction = torch.nn.functional.normalize(torch.where(straight[..., None], axis, direction), dim=-1)
    for part in range(1, PARTS):
        earlier = (random.uniform(count) * part).long()
        index = torch.arange(count)
        reach = size[index, earlier] * 0.85 + size[:, part] * 0.35
        centre[:, part] = centre[index, earlier] + direction[:, part] * reach
    symmetric = random.chance(count, 1, p=0.75).expand(shape)
    fourfold = random.chance(count, 1, p=0.15).expand(shape)
    mirrored = torch.stack([symmetric, fourfold & (centre[..., 2] < 0)], dim=-1)
    patterned = random.choose(*shape, weights=[0.35, 0.15, 0.12, 0.12, 0.14, 0.12])
    marks = (count, _MARKS)
    return Objects(
        kind=kind,
        exists=exists,
        size=size,
        centre=centre,
        rounding=random.uniform(*shape, low=0.02, high=0.6) * size.amin(-1),
        taper=torch.where(random.chance(*shape, p=0.25), random.uniform(*shape, high=0.7), torch.zeros(shape)),
        axes=axes,
        mirrored=mirrored,
        blend=torch.where(random.chance(count, p=0.4), random.uniform(count, low=0.02, high=0.08), torch.tensor(0.004)),
        pattern=patterned,
        colours=_palettes(random, count),
        frequency=random.uniform(*shape, low=2.5, high=9),
        phase=random.uniform(*shape),
        own_axes=random.chance(*shape, p=0.5),
        mark_place=torch.stack([random.uniform(*marks, high=0.3), random.uniform(*marks, low=-0.4, high=0.6)], dim=-1),
        mark_radius=random.chance(*marks, p=0.4) * random.uniform(*marks, low=0.03, high=0.16),
        mark_hole=random.chance(*marks, p=0.4) * random.uniform(*marks, low=0.3, high=0.7),
        mark_square=random.chance(*marks, p=0.3).float(),
        mark_colour=random.uniform(*marks, 3) * random.chance(*marks, 1, p=0.7),
        dip=torch.where(random.chance(count, p=0.25), random.uniform(count, low=-0.5, high=0.1), torch.tensor(-1e3)),
        dip_colour=random.uniform(count, 3),
        waves=random.normal(count, 6, 3) * 6,
        wave_phase=random.uniform(count, 6, high=2 * math.pi),
        origin=torch.zeros(count, 3),
        side=torch.full((count,), 2.5),
    )  # fmt: skip


def _palettes(random: _Random, count: int) -> Tensor:
    """Return two colours of each part, (count, PARTS, 2, 3), most of which are from a few that the object has."""
    base = _colours(random, count, 4)
    own = _colours(random, count, PARTS * 2).view(count, PARTS, 2, 3)
    picked = random.choose(count, PARTS * 2, weights=[3, 2, 1, 1])
    shared = torch.gather(base, 1, picked[..., None].expand(-1, -1, 3)).view(count, PARTS, 2, 3)
    return torch.where(random.chance(count, PARTS, 2, 1, p=0.8), shared, own)


def _colours(random: _Random, *shape: int) -> Tensor:
    """Return colours (…, 3): vivid, greyish, dark and bright ones."""
    hue, saturation, value = random.uniform(*shape), random.uniform(*shape) ** 1.3, random.uniform(*shape) ** 0.6
    offsets = torch.tensor([0, 1 / 3, 2 / 3])
    wheel = ((hue[..., None] + offsets) % 1 * 6 - 3).abs().sub(1).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * (1 - wheel))


def _rotations(quaternions: Tensor) -> Tensor:
    """Return rotation matrices (…, 3, 3) of quaternions (…, 4) of any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


#: x, y and z, apart.
Vector = tuple[Tensor, Tensor, Tensor]


def _local(objects: Objects, points: Tensor) -> tuple[Tensor, Vector]:
    """Return points (B, N, 3) of the cameras' frame in the object's units, and in each part's axes, (B, N, PARTS)."""
    raw = points * objects.side[:, None, None] + objects.origin[:, None]
    x, y, z = (raw[..., None, axis] for axis in range(3))
    x = torch.where(objects.mirrored[:, None, :, 0], x.abs(), x) - objects.centre[:, None, :, 0]
    y = torch.where(objects.mirrored[:, None, :, 1], y.abs(), y) - objects.centre[:, None, :, 1]
    z = z - objects.centre[:, None, :, 2]
    # No matrix product: written so, the whole distance compiles into one kernel.
    axes = objects.axes[:, None]
    own = [x * axes[..., row, 0] + y * axes[..., row, 1] + z * axes[..., row, 2] for row in range(3)]
    return raw, (own[0], own[1], own[2])


def _parts(objects: Objects, own: Vector) -> Tensor:
    """Return the distance from each part of points in its axes, (B, N, PARTS)."""
    size, rounding, kind = objects.size[:, None], objects.rounding[:, None], objects.kind[:, None]
    height = size[..., 2]
    width = 1 - objects.taper[:, None] * (own[2] / height * 0.5 + 0.5).clamp(0, 1)
    x, y, z = own[0] / width, own[1] / width, own[2]
    inner = size - rounding[..., None]
    bx, by, bz = x.abs() - inner[..., 0], y.abs() - inner[..., 1], z.abs() - inner[..., 2]
    outside = (bx.clamp_min(0).square() + by.clamp_min(0).square() + bz.clamp_min(0).square()).sqrt()
    box = outside + torch.maximum(bx, torch.maximum(by, bz)).clamp_max(0) - rounding
    around = (x.square() + (y * size[..., 0] / size[..., 1]).square() + 1e-12).sqrt()
    cx = around - inner[..., 0]
    cylinder = (cx.clamp_min(0).square() + bz.clamp_min(0).square()).sqrt() + torch.maximum(cx, bz).clamp_max(0)
    cylinder = (cylinder - rounding) * (size[..., 1] / size[..., 0]).clamp_max(1)
    scaled = ((x / size[..., 0]).square() + (y / size[..., 1]).square() + (z / height).square() + 1e-12).sqrt()
    twice = (x / size[..., 0].square()).square() + (y / size[..., 1].square()).square() + (z / height.square()).square()
    ellipsoid = scaled * (scaled - 1) / (twice + 1e-12).sqrt()
    tube = size[..., 0] * 0.3
    torus = ((around - size[..., 0] + tube).square() + z.square() + 1e-12).sqrt() - tube
    result = torch.where(kind == BOX, box, torch.where(kind == CYLINDER, cylinder, ellipsoid))
    result = torch.where(kind == TORUS, torus, result) * width.clamp_max(1)
    return torch.where(objects.exists[:, None], result, torch.full_like(result, 1e3))


def distance(objects: Objects, points: Tensor) -> Tensor:
    """Return a lower bound of the distance (B, N) of points (B, N, 3) in the frame of the cameras, negative inside."""
    _, own = _local(objects, points)
    blend = objects.blend[:, None, None]
    joined = -objects.blend[:, None] * torch.logsumexp(-_parts(objects, own) / blend, dim=-1)
    return joined / objects.side[:, None]


def _pick(values: Tensor, part: Tensor) -> Tensor:
    """Return values (B, PARTS, …) of each point's part (B, N)."""
    batch = torch.arange(len(values), device=values.device)[:, None]
    return values[batch, part]


def albedo(objects: Objects, points: Tensor, normals: Tensor, part: Tensor | None = None) -> Tensor:
    """Return the colours (B, N, 3), sRGB in [0, 1], of points (B, N, 3) on the surface with normals (B, N, 3).

    `part`: the part of each, (B, N); by default the nearest.
    """
    raw, own = _local(objects, points)
    if part is None:
        part = _parts(objects, own).argmin(-1)
    across = torch.where(_pick(objects.mirrored, part)[..., 0], raw[..., 0].abs(), raw[..., 0])
    folded = torch.stack([across, raw[..., 1], raw[..., 2]], dim=-1)
    mine = torch.cat([torch.gather(values, 2, part[..., None]) for values in own], dim=-1)
    place = torch.where(_pick(objects.own_axes, part)[..., None], mine, folded)
    frequency, phase = _pick(objects.frequency, part), _pick(objects.phase, part)
    u = place * frequency[..., None] + phase[..., None]
    soft = _SOFT * objects.side[:, None] * frequency

    def edge(value: Tensor) -> Tensor:
        return (value / soft / 4 + 0.5).clamp(0, 1)

    wave = (u * math.pi).sin() / math.pi  # its slope is 1 per unit of u where it is 0
    cell = ((u + 0.5) % 1 - 0.5).square().sum(-1).sqrt()
    blobs = ((folded[:, :, None] * objects.waves[:, None]).sum(-1) + objects.wave_phase[:, None]).sin().sum(-1)
    mixed = torch.zeros_like(frequency)
    pattern = _pick(objects.pattern, part)
    mixed = torch.where(pattern == _STRIPES, edge(wave[..., 2]), mixed)
    mixed = torch.where(pattern == _CHECKER, edge(wave.prod(-1).sign() * wave.abs().amin(-1)), mixed)
    mixed = torch.where(pattern == _DOTS, edge(0.32 - cell), mixed)
    mixed = torch.where(pattern == _BLOBS, edge(blobs / 8), mixed)
    mixed = torch.where(pattern == _GRADIENT, (place[..., 2] / 0.6 + 0.5).clamp(0, 1), mixed)
    colours = _pick(objects.colours, part)
    colour = colours[..., 0, :] + mixed[..., None] * (colours[..., 1, :] - colours[..., 0, :])
    below = ((objects.dip[:, None] - raw[..., 2]) / _SOFT / objects.side[:, None] / 2 + 0.5).clamp(0, 1)
    colour = colour + below[..., None] * (objects.dip_colour[:, None] - colour)
    return _marked(objects, colour, raw, normals)


def _marked(objects: Objects, colour: Tensor, raw: Tensor, normals: Tensor) -> Tensor:
    """Paint the marks on what faces the front."""
    facing = ((-normals[..., 1] - 0.2) / 0.05).clamp(0, 1)
    for mark in range(_MARKS):
        place, radius = objects.mark_place[:, mark], objects.mark_radius[:, mark, None]
        x, z = raw[..., 0].abs() - place[:, None, 0], raw[..., 2] - place[:, None, 1]
        round_, square = (x.square() + z.square()).sqrt(), torch.maximum(x.abs(), z.abs())
        reach = torch.where(objects.mark_square[:, mark, None] > 0, square, round_)
        soft = _SOFT * objects.side[:, None] * 2
        inside = ((radius - reach) / soft + 0.5).clamp(0, 1) * (
            (reach - radius * objects.mark_hole[:, mark, None]) / soft + 0.5
        ).clamp(0, 1)
        inside = inside * facing * (radius > 0)
        colour = colour + inside[..., None] * (objects.mark_colour[:, mark, None] - colour)
    return colour
