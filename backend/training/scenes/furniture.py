"""Furniture and props of boxes, cylinders and blobs, at (x, y) on a floor at height z, rotated by yaw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import materials
from .build import Builder

Place = tuple[float, float, float, float]  # x, y, z, yaw
Piece = Callable[[Builder, Place], None]


def _boxes(b: Builder, place: Place, parts: list[tuple], label: str) -> None:
    """Add boxes; parts are (centre, size, material) in the piece's local axes."""
    x, y, z, yaw = place
    for (px, py, pz), size, material in parts:
        b.box((px, py, pz + z), size, material, label, yaw, (x, y))


def table(b: Builder, place: Place, label: str = "table") -> None:
    rng, m = b.rng, materials.choose(b.rng, "solid")
    w, d, h, t = rng.uniform(0.6, 2), rng.uniform(0.5, 1), rng.uniform(0.4, 0.8), rng.uniform(0.02, 0.06)
    legs = materials.choose(rng, "solid") if rng.uniform() < 0.5 else m
    parts = [((0, 0, h), (w, d, t), m)]
    parts += [((i * (w / 2 - 0.05), j * (d / 2 - 0.05), h / 2), (t, t, h), legs) for i in (-1, 1) for j in (-1, 1)]
    _boxes(b, place, parts, label)
    x, y, z, _ = place
    for _ in range(rng.integers(0, 4)):
        r = rng.uniform(0.04, 0.12)
        at = (x + rng.uniform(-0.3, 0.3) * w, y + rng.uniform(-0.3, 0.3) * d, z + h + t / 2)
        if rng.uniform() < 0.5:
            b.cylinder(at, r * 0.7, 2.5 * r, materials.choose(rng, "solid"), "otherprop", top=r)
        else:
            b.blob((at[0], at[1], at[2] + r), (r, r, r), materials.choose(rng, "solid"), "otherprop")


def desk(b: Builder, place: Place) -> None:
    table(b, place)
    x, y, z, yaw = place
    b.box((0, 0.1, z + 1.0), (0.6, 0.04, 0.36), materials.plain(b.rng), "television", yaw, (x, y))


def chair(b: Builder, place: Place) -> None:
    rng, m = b.rng, materials.choose(b.rng, "solid")
    s, h = rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.5)
    seat = materials.choose(rng, "cloth")
    parts = [((0, 0, h), (s, s, 0.05), seat), ((-s / 2, 0, h + 0.28), (0.04, s, 0.5), seat)]
    parts += [((i * (s / 2 - 0.02), j * (s / 2 - 0.02), h / 2), (0.04, 0.04, h), m) for i in (-1, 1) for j in (-1, 1)]
    _boxes(b, place, parts, "chair")


def sofa(b: Builder, place: Place) -> None:
    rng, m = b.rng, materials.choose(b.rng, "cloth")
    w, d, h = rng.uniform(0.9, 2.6), rng.uniform(0.75, 1), rng.uniform(0.35, 0.45)
    parts = [((0, 0, h / 2), (w, d, h), m), ((0, -d / 2, h), (w, 0.2, 0.9), m)]
    parts += [((i * w / 2, 0, h * 0.75), (0.2, d, h * 1.5), m) for i in (-1, 1)]
    _boxes(b, place, parts, "sofa")
    pillow = materials.choose(rng, "cloth")
    cushions = [((i * w / 4, 0.05, h + 0.1), (w / 2.2, d * 0.7, 0.15), pillow) for i in (-1, 1)]
    _boxes(b, place, cushions, "pillow" if rng.uniform() < 0.5 else "sofa")


def bed(b: Builder, place: Place) -> None:
    rng = b.rng
    w, d = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.2)
    frame, sheet, cloth = (materials.choose(rng, use) for use in ("solid", "cloth", "cloth"))
    parts = [((0, 0, 0.15), (w, d, 0.3), frame), ((0, -d / 2, 0.5), (w, 0.08, 1.0), frame)]
    parts += [((0, 0, 0.4), (w * 0.97, d * 0.97, 0.2), sheet), ((0, 0.3, 0.5), (w * 1.0, d * 0.65, 0.06), cloth)]
    _boxes(b, place, parts, "bed")
    _boxes(b, place, [((0, -d / 2 + 0.3, 0.56), (w * 0.6, 0.4, 0.12), sheet)], "pillow")


def cupboard(b: Builder, place: Place) -> None:
    """Add a chest or wardrobe with doors and handles."""
    rng, m = b.rng, materials.choose(b.rng, "solid")
    w, d, h = rng.uniform(0.5, 2.2), rng.uniform(0.35, 0.6), rng.choice([0.5, 0.9, 1.3, 2.0, 2.2])
    doors = materials.choose(rng, "solid") if rng.uniform() < 0.4 else m
    handle = materials.metal(rng)
    n = max(1, round(w / rng.uniform(0.35, 0.7)))
    parts = [((0, 0, h / 2), (w, d, h), m)]
    for i in range(n):
        x = (i + 0.5) / n * w - w / 2
        parts += [
            ((x, d / 2, h / 2), (w / n - 0.02, 0.03, h - 0.08), doors),
            ((x, d / 2 + 0.03, h / 2), (0.02, 0.02, 0.15), handle),
        ]
    _boxes(b, place, parts, "cabinet")


def bookshelf(b: Builder, place: Place) -> None:
    rng, m = b.rng, materials.choose(b.rng, "solid")
    w, d, h = rng.uniform(0.6, 1.8), rng.uniform(0.25, 0.35), rng.uniform(0.8, 2.3)
    rows = max(2, round(h / 0.38))
    parts = [((0, -d / 2, h / 2), (w, 0.02, h), m)]
    parts += [((i * w / 2, 0, h / 2), (0.03, d, h), m) for i in (-1, 1)]
    parts += [((0, 0, h * k / rows), (w, d, 0.03), m) for k in range(rows + 1)]
    _boxes(b, place, parts, "bookshelf")
    spines = [materials.plain(rng) for _ in range(4)]
    books = []
    for k in range(rows):
        x = -w / 2 + 0.04
        while x < w / 2 - 0.15 and rng.uniform() < 0.93:
            t, tall = rng.uniform(0.03, 0.12), rng.uniform(0.5, 0.85) * h / rows
            books.append(((x + t / 2, 0, h * k / rows + tall / 2 + 0.015), (t, d * 0.8, tall), spines[rng.integers(4)]))
            x += t + (rng.uniform(0.05, 0.3) if rng.uniform() < 0.2 else 0.002)
    _boxes(b, place, books, "books")


def floor_lamp(b: Builder, place: Place) -> None:
    rng = b.rng
    x, y, z, _ = place
    h = rng.uniform(1.2, 1.8)
    pole = materials.metal(rng)
    b.cylinder((x, y, z), 0.15, 0.03, pole, "lamp")
    b.cylinder((x, y, z), 0.015, h, pole, "lamp", sides=8)
    b.cylinder((x, y, z + h), 0.2, 0.25, materials.emitter(rng, rng.uniform(2, 12)), "lamp", top=0.13)


def plant(b: Builder, place: Place) -> None:
    rng = b.rng
    x, y, z, _ = place
    h = rng.uniform(0.2, 0.5)
    b.cylinder((x, y, z), h * 0.35, h, materials.choose(rng, "solid"), "otherprop", top=h * 0.5)
    leaves = materials.foliage(rng)
    for _ in range(rng.integers(2, 6)):
        r = rng.uniform(0.1, 0.35)
        at = (x + rng.normal(0, 0.15), y + rng.normal(0, 0.15), z + h + rng.uniform(0.1, 0.9))
        b.blob(at, (r, r, r * rng.uniform(0.6, 1.6)), leaves, "otherprop", rough=0.45, detail=10)


def crate(b: Builder, place: Place) -> None:
    s = b.rng.uniform(0.2, 0.9, 3)
    _boxes(b, place, [((0, 0, s[2] / 2), tuple(s), materials.choose(b.rng, "solid"))], "box")


def pillar(b: Builder, place: Place) -> None:
    x, y, z, _ = place
    r, h = b.rng.uniform(0.15, 0.4), b.rng.uniform(0.4, 1.5)
    b.cylinder((x, y, z), r, h, materials.choose(b.rng, "solid"), "otherprop", sides=24)
    b.blob(
        (x, y, z + h + r * 0.6),
        (r, r, r * 0.7),
        materials.choose(b.rng, "solid"),
        "otherprop",
        rough=float(b.rng.choice([0, 0.2])),
    )


def counter(b: Builder, place: Place) -> None:
    rng = b.rng
    w = rng.uniform(1.2, 3)
    m, top = materials.choose(rng, "solid"), materials.choose(rng, "floor")
    parts = [((0, 0, 0.43), (w, 0.6, 0.86), m), ((0, 0, 0.88), (w + 0.04, 0.64, 0.04), top)]
    _boxes(b, place, parts, "counter")
    if rng.uniform() < 0.6:
        _boxes(b, place, [((0, -0.12, 1.75), (w, 0.35, 0.7), m)], "cabinet")


AGAINST_WALL: list[Piece] = [
    cupboard, cupboard, bookshelf, bookshelf, sofa, bed, desk, counter, chair, plant, floor_lamp,
]  # fmt: skip
STANDING: list[Piece] = [table, table, chair, chair, sofa, crate, plant, pillar, floor_lamp]


def _limit_radius(x: float, y: float, radius: float) -> float:
    """Limit a radius so that the camera above the origin stays outside."""
    return min(radius, 0.6 * float(np.hypot(x, y)))


def tree(b: Builder, place: Place) -> None:
    rng = b.rng
    x, y, z, _ = place
    h, r = rng.uniform(1.5, 5), _limit_radius(x, y, rng.uniform(0.8, 2.5))
    b.cylinder((x, y, z), r * 0.12, h + r, materials.wood(rng), "otherprop", top=r * 0.06, sides=10)
    leaves = materials.foliage(rng)
    if rng.uniform() < 0.3:
        for k in range(4):
            b.cylinder(
                (x, y, z + h * 0.4 + k * r * 0.9), r * (1.1 - k * 0.25), r * 1.3, leaves, "otherprop", top=0.0, sides=14
            )
        return
    for _ in range(rng.integers(4, 9)):
        s = r * rng.uniform(0.35, 0.7)
        at = (x + rng.normal(0, r * 0.45), y + rng.normal(0, r * 0.45), z + h + rng.uniform(-0.2, 1) * r)
        b.blob(at, (s, s, s * rng.uniform(0.7, 1.1)), leaves, "otherprop", rough=0.35, detail=14)


def bush(b: Builder, place: Place) -> None:
    x, y, z, _ = place
    leaves = materials.foliage(b.rng)
    for _ in range(b.rng.integers(1, 4)):
        r = _limit_radius(x, y, b.rng.uniform(0.3, 0.9))
        at = (x + b.rng.normal(0, 0.4), y + b.rng.normal(0, 0.4), z + r * 0.5)
        b.blob(at, (r, r, r * 0.8), leaves, "otherprop", rough=0.35)


def rock(b: Builder, place: Place) -> None:
    x, y, z, _ = place
    r = _limit_radius(x, y, b.rng.uniform(0.15, 1.6))
    b.blob(
        (x, y, z + r * 0.2), tuple(r * b.rng.uniform(0.5, 1.2, 3)), materials.mottled(b.rng), "otherprop", rough=0.15
    )


def car(b: Builder, place: Place) -> None:
    rng = b.rng
    x, y, z, yaw = place
    paint = materials.plain(rng) if rng.uniform() < 0.6 else materials.metal(rng)
    glass, tyre = materials.mirror(rng), materials.plain(rng)
    w, d, h = rng.uniform(3.6, 4.8), rng.uniform(1.6, 1.9), rng.uniform(0.55, 0.8)
    parts = [((0, 0, 0.3 + h / 2), (w, d, h), paint), ((-0.2, 0, 0.3 + h * 1.35), (w * 0.5, d * 0.9, h * 0.8), glass)]
    parts += [((-0.2, 0, 0.3 + h * 1.75), (w * 0.48, d * 0.88, 0.06), paint)]
    parts += [((i * w * 0.32, j * d * 0.45, 0.3), (0.6, 0.2, 0.6), tyre) for i in (-1, 1) for j in (-1, 1)]
    _boxes(b, (x, y, z, yaw), parts, "otherprop")


def street_lamp(b: Builder, place: Place, strength: float) -> None:
    x, y, z, _ = place
    h = b.rng.uniform(3, 6)
    b.cylinder((x, y, z), 0.06, h, materials.metal(b.rng), "lamp", sides=8)
    b.blob((x, y, z + h), (0.2, 0.2, 0.15), materials.emitter(b.rng, strength), "lamp")


def bench(b: Builder, place: Place) -> None:
    m = materials.choose(b.rng, "solid")
    w = b.rng.uniform(1.2, 2)
    parts = [((0, 0, 0.45), (w, 0.45, 0.06), m), ((0, -0.22, 0.7), (w, 0.05, 0.4), m)]
    parts += [((i * w * 0.4, 0, 0.22), (0.08, 0.4, 0.44), m) for i in (-1, 1)]
    _boxes(b, place, parts, "chair")


OUTDOORS: list[Piece] = [tree, tree, bush, bush, rock, bench, crate, pillar]


def clear_of(points: list[tuple[float, float, float]], x: float, y: float, radius: float) -> bool:
    """Return whether a disc overlaps none of the discs (x, y, radius)."""
    return all(np.hypot(x - px, y - py) > radius + r for px, py, r in points)
