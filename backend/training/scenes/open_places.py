"""Places under the open sky: terraces and balconies, roofs, cloisters, squares, parks and shores."""

from __future__ import annotations

import colorsys

import numpy as np

from . import furniture, materials, weather
from .build import Builder, turned
from .furniture import clear_of
from .outdoors import facade, scatter

_TERRACE = [furniture.plant, furniture.plant, furniture.table, furniture.chair, furniture.bench, furniture.crate]


def _far(b: Builder, ground: float, near: float = 60) -> None:
    """Add hills, woods or a skyline all around or on some sides, paler with distance, on a plain at height `ground`."""
    rng = b.rng
    plain = materials.ground(rng) if rng.uniform() < 0.6 else _water()
    b.box((0, 0, ground - 0.5), (4000, 4000, 1), plain, "floor")
    haze = colorsys.hsv_to_rgb(0.6, rng.uniform(0, 0.3), rng.uniform(0.4, 0.8))
    base = colorsys.hsv_to_rgb(rng.uniform(0.08, 0.4), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.4))
    towards, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 3.2)
    kind = rng.choice(4, p=(0.2, 0.4, 0.2, 0.2))
    for _ in range(rng.integers(4, 22) if kind else 0):
        angle, far = towards + rng.uniform(-spread, spread), near * np.exp(rng.uniform(0, 2.5))
        share = 1 - np.exp(-far / rng.uniform(100, 600))
        tint = tuple(float(p + (q - p) * share) for p, q in zip(base, haze, strict=True))
        surface = materials.Graph("far").finish(tint, 0.9, 0.0)
        size = far * rng.uniform(0.1, 0.6)
        x, y = float(np.cos(angle) * (far + size)), float(np.sin(angle) * (far + size))
        if kind == 1:  # hills
            b.blob((x, y, ground), (size, size, size * rng.uniform(0.1, 0.6)), surface, "otherprop", rough=0.08)
        elif kind == 2:  # the edge of a wood
            b.blob((x, y, ground), (size * 0.5, size * 0.5, rng.uniform(5, 14)), surface, "otherprop", rough=0.3)
        else:  # towers of a town
            tall, wide = rng.uniform(5, 60), rng.uniform(6, 25, 2)
            b.box((x, y, ground + tall / 2), (*wide, tall), surface, "otherstructure", angle)


def _water():
    return materials.Graph("water").finish((0.02, 0.05, 0.06), 0.08, 0.0)


def _railing(b: Builder, start, end, height: float, material) -> None:
    """Add a railing from start to end (x, y): bars, rails, a pane's frame, or a parapet."""
    rng = b.rng
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(end - start))
    yaw, pivot = float(np.arctan2(end[1] - start[1], end[0] - start[0])), tuple(start)
    kind = rng.integers(4)
    if kind == 0:
        thick = rng.uniform(0.1, 0.35)
        b.box((length / 2, 0, height / 2), (length, thick, height), material, "wall", yaw, pivot)
        return
    b.box((length / 2, 0, height), (length, 0.07, 0.05), material, "otherstructure", yaw, pivot)
    if kind == 1:
        for x in np.arange(0, length, rng.uniform(0.12, 0.3)):
            b.box((float(x), 0, height / 2), (0.025, 0.025, height), material, "otherstructure", yaw, pivot)
        return
    for x in np.arange(0, length + 0.1, rng.uniform(0.9, 2)):
        b.box((float(x), 0, height / 2), (0.05, 0.05, height), material, "otherstructure", yaw, pivot)
    if kind == 2:
        for z in np.arange(0.15, height, rng.uniform(0.12, 0.3)):
            b.box((length / 2, 0, float(z)), (length, 0.02, 0.02), material, "otherstructure", yaw, pivot)


def _pergola(b: Builder, x: tuple[float, float], y: tuple[float, float], yaw: float) -> None:
    """Add posts with beams, sometimes with a closed roof or an awning, over a rectangle in axes rotated by yaw."""
    rng, material = b.rng, materials.choose(b.rng, "solid")
    height, closed = rng.uniform(2.3, 3.2), rng.uniform() < 0.35
    for px in x:
        for py in y:
            if np.hypot(px, py) > 0.4:
                b.box((px, py, height / 2), (0.1, 0.1, height), material, "otherstructure", yaw)
    middle = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2)
    if closed:
        cover = materials.choose(rng, "cloth")
        b.box((*middle, height + 0.05), (x[1] - x[0], y[1] - y[0], 0.06), cover, "ceiling", yaw)
        return
    for py in np.arange(y[0], y[1] + 0.01, rng.uniform(0.3, 0.9)):
        b.box((middle[0], float(py), height), (x[1] - x[0] + 0.4, 0.06, 0.14), material, "otherstructure", yaw)


def _lamps(b: Builder, count: int, reach: float) -> None:
    """Add street lamps that shine at night."""
    for _ in range(count):
        angle, far = b.rng.uniform(0, 2 * np.pi), b.rng.uniform(2, reach)
        at = (float(np.cos(angle) * far), float(np.sin(angle) * far), 0.0, 0.0)
        furniture.street_lamp(b, at, float(b.rng.uniform(30, 200)))


def _wall_lamps(b: Builder, start, end, height: float) -> None:
    """Add lamps on a wall, the outside of which is to the left of start → end."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    yaw, lamp = float(np.arctan2(*(end - start)[::-1])), materials.emitter(b.rng, float(b.rng.uniform(10, 60)))
    for share in b.rng.uniform(0.1, 0.9, b.rng.integers(1, 4)):
        b.blob(turned((float(share * np.linalg.norm(end - start)), 0.2, height), yaw, tuple(start)), (0.1,) * 3, lamp,
               "lamp")  # fmt: skip


def terrace(b: Builder) -> float:
    """Build a terrace, a balcony or a ledge at a house, with railings, above the ground. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    ground = -float(np.exp(rng.uniform(np.log(0.2), np.log(40))))
    x0, x1, back, front = -rng.uniform(0.8, 7), rng.uniform(0.8, 7), -rng.uniform(0.7, 4), rng.uniform(0.7, 5)
    yaw = float(rng.uniform(0, 2 * np.pi))

    def at(x: float, y: float) -> tuple[float, float]:
        return turned((x, y, 0), yaw)[:2]

    paving = materials.choose(rng, "floor")
    b.box(((x0 + x1) / 2, (back + front) / 2, -0.15), (x1 - x0, front - back, 0.3), paving, "floor", yaw)
    beyond = rng.uniform(0, 8)
    tall = float(rng.uniform(2.5, 9))
    facade(b, at(x0 - beyond, back), at(x1 + beyond, back), tall)
    if ground < -1.5:  # the storeys below
        wall = materials.choose(rng, "wall")
        width = x1 - x0 + 2 * beyond
        b.box(((x0 + x1) / 2, back - 2, ground / 2), (width, 4, -ground), wall, "wall", yaw)
    rail, height = materials.choose(rng, "solid"), rng.uniform(0.85, 1.15)
    if rng.uniform() < 0.9:
        _railing(b, at(x0, front), at(x1, front), height, rail)
    for x in (x0, x1):
        if rng.uniform() < 0.25:  # a side wall
            b.box((x, (back + front) / 2, 1.3), (0.2, front - back, 2.6), materials.choose(rng, "wall"), "wall", yaw)
        else:
            _railing(b, at(x, back), at(x, front), height, rail)
    if rng.uniform() < 0.3:
        _pergola(b, (x0, float(rng.uniform(x0 + 0.5, x1))), (back, float(rng.uniform(0, front))), yaw)
    elif rng.uniform() < 0.2:  # the balcony above, or eaves
        deep = rng.uniform(0.5, front - back)
        slab = materials.choose(rng, "wall")
        b.box(((x0 + x1) / 2, back + deep / 2, 2.8), (x1 - x0, deep, 0.25), slab, "ceiling", yaw)
    taken = [(0.0, 0.0, 0.6)]
    for _ in range(rng.integers(0, 9)):
        px, py = at(float(rng.uniform(x0, x1)) * 0.85, float(rng.uniform(back, front)) * 0.8)
        if clear_of(taken, px, py, 0.5):
            _TERRACE[rng.integers(len(_TERRACE))](b, (px, py, 0.0, float(rng.uniform(0, 2 * np.pi))))
            taken.append((px, py, 0.5))
    if night:
        _wall_lamps(b, at(x0, back), at(x1, back), 2.2)
    _neighbours(b, ground, max(-x0, x1, front) + 2, back, yaw)
    _far(b, ground)
    return float(rng.uniform(1.2, 1.9))


def _neighbours(b: Builder, ground: float, near: float, back: float, yaw: float) -> None:
    """Add trees and houses on the ground in front of a terrace, whose house is behind `back`."""
    rng = b.rng
    for _ in range(rng.integers(0, 14)):
        x, y = rng.normal(0, 20), near + rng.exponential(15)
        px, py = turned((x, y, 0), yaw)[:2]
        if rng.uniform() < 0.6:
            furniture.tree(b, (px, py, ground, 0.0))
        else:
            size, wall = rng.uniform(4, 12, 3), materials.choose(rng, "wall")
            b.box((x, y + size[1], ground + size[2] / 2), tuple(size), wall, "otherstructure", yaw)


def roof(b: Builder) -> float:
    """Build a flat roof among those of a town. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    ground, half = -rng.uniform(4, 40), rng.uniform(1.5, 12, 4)
    yaw = float(rng.uniform(0, 2 * np.pi))
    corners = [turned((x, y, 0), yaw)[:2] for x, y in (
        (-half[0], -half[1]), (half[2], -half[1]), (half[2], half[3]), (-half[0], half[3]))]  # fmt: skip
    middle, size = ((half[2] - half[0]) / 2, (half[3] - half[1]) / 2), (half[0] + half[2], half[1] + half[3])
    b.box((*middle, ground / 2), (*size, -ground), materials.choose(rng, "floor"), "floor", yaw)
    edge, height = materials.choose(rng, "wall"), rng.choice([0.15, rng.uniform(0.5, 1.3)])
    for index in range(4):
        if rng.uniform() < 0.85:
            start, end = np.array(corners[index]), np.array(corners[(index + 1) % 4])
            _railing(b, start, end, float(height), edge)
    taken = [(0.0, 0.0, 0.8)]
    for _ in range(rng.integers(0, 9)):  # chimneys, huts, air conditioners, masts
        x, y = rng.uniform(-half[0], half[2]) * 0.85, rng.uniform(-half[1], half[3]) * 0.85
        px, py = turned((x, y, 0), yaw)[:2]
        s = rng.uniform(0.3, 2.2, 3) if rng.uniform() < 0.7 else np.array([0.06, 0.06, rng.uniform(1, 4)])
        if clear_of(taken, px, py, float(max(s[0], s[1]))):
            b.box((x, y, s[2] / 2), tuple(s), materials.choose(rng, "wall"), "otherstructure", yaw)
            taken.append((px, py, float(max(s[0], s[1]))))
    if rng.uniform() < 0.2:
        _pergola(b, (-half[0], 0.0), (-half[1], half[3] * 0.5), yaw)
    reach = float(half.max() * 1.5)
    for _ in range(rng.integers(4, 30)):
        angle, far = rng.uniform(0, 2 * np.pi), reach + rng.exponential(25)
        s = rng.uniform(5, 16, 2)
        top = rng.normal(-2, 5)
        if far - s.max() > reach and top > ground + 2:
            x, y = float(np.cos(angle) * far), float(np.sin(angle) * far)
            b.box((x, y, (top + ground) / 2), (*s, top - ground), materials.choose(rng, "wall"), "otherstructure", yaw)
    if night:
        _wall_lamps(b, corners[0], corners[1], 1.6)
    _far(b, ground)
    return float(rng.uniform(1.3, 1.9))


def cloister(b: Builder) -> float:
    """Build a court with galleries on columns, or the camera in one of them. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    half, deep = rng.uniform(2.5, 14, 2), rng.uniform(1.2, 3.5)
    shift = rng.uniform(-0.8, 0.8, 2) * half if rng.uniform() < 0.6 else np.array([0, half[1] + deep / 2])
    yaw, height, storeys = float(rng.uniform(0, 2 * np.pi)), rng.uniform(2.4, 4.5), rng.integers(1, 4)
    b.box((0, 0, -0.5), (300, 300, 1), materials.choose(rng, "floor"), "floor")
    lawn = materials.foliage(rng) if rng.uniform() < 0.4 else materials.choose(rng, "floor")
    b.box((-shift[0], -shift[1], 0.0), (half[0] * 1.6, half[1] * 1.6, 0.06), lawn, "floor", yaw)
    wall, stone, soffit = (materials.choose(rng, use) for use in ("wall", "wall", "wall"))
    pitch, r = rng.uniform(1.5, 4), rng.uniform(0.08, 0.3)
    for side in range(4):
        if rng.uniform() < 0.12:
            continue  # open
        along, across = (half[0], half[1]) if side % 2 == 0 else (half[1], half[0])
        turn = yaw + side * np.pi / 2
        centre = np.array(turned((-shift[0], -shift[1], 0), yaw)[:2])
        pivot = (float(centre[0]), float(centre[1]))
        for level in range(storeys):
            z = level * (height + 0.3)
            size = (2 * along + 2 * deep, deep, 0.3)
            b.box((0, -across - deep / 2, z + height + 0.15), size, soffit, "ceiling", turn, pivot)
            for x in np.arange(-along, along + 0.01, pitch):
                place = turned((float(x), -across, z), turn, pivot)
                if np.hypot(*place[:2]) > r + 0.3:
                    b.cylinder(place, r, height, stone, "otherstructure", top=r * 0.85)
            if level:
                b.box((0, -across, z + 0.5), (2 * along, 0.12, 1.0), stone, "otherstructure", turn, pivot)
        top = storeys * (height + 0.3) + rng.uniform(0, 3)
        b.box((0, -across - deep - 0.2, top / 2), (2 * (along + deep), 0.4, top), wall, "wall", turn, pivot)
    taken = [(0.0, 0.0, 0.9)]
    scatter(b, rng.integers(0, 10), 1.2, float(half.min()), taken, furniture.OUTDOORS)
    if night:
        _lamps(b, 3, float(half.min()) + 1)
    return float(rng.uniform(1.3, 2))


def square(b: Builder) -> float:
    """Build a wide square with a fountain or monument, lamps and trees. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    b.box((0, 0, -0.5), (600, 600, 1), materials.choose(rng, "floor"), "floor")
    far = float(np.exp(rng.uniform(np.log(9), np.log(60))))
    angle = rng.uniform(0, 2 * np.pi)
    while angle < 2 * np.pi + 3:
        wide = rng.uniform(8, 25)
        step = 2 * np.arctan(wide / 2 / far)
        if rng.uniform() < 0.6:
            p = np.array([np.cos(angle), np.sin(angle)]) * far
            q = np.array([np.cos(angle + step), np.sin(angle + step)]) * far
            tall = float(rng.uniform(4, 18))
            if far < 25 and rng.uniform() < 0.6:
                facade(b, q, p, min(tall, 10))
            else:
                yaw, wall = float(np.arctan2(*(q - p)[::-1])), materials.choose(rng, "wall")
                b.box((wide / 2, 4, tall / 2), (wide, 8, tall), wall, "otherstructure", yaw, tuple(p))
        angle += step
    stone = materials.choose(rng, "wall")
    if rng.uniform() < 0.6:
        t, d = rng.uniform(0, 2 * np.pi), rng.uniform(3, far * 0.6)
        x, y = float(np.cos(t) * d), float(np.sin(t) * d)
        r = min(rng.uniform(0.8, 3), 0.6 * d)
        b.cylinder((x, y, 0), r, 0.5, stone, "otherstructure", top=r, sides=24)
        b.cylinder((x, y, 0.5), r * 0.9, 0.02, _water(), "floor", sides=24)
        b.cylinder((x, y, 0), r * 0.2, rng.uniform(1, 6), stone, "otherstructure", top=r * 0.12)
    taken = [(0.0, 0.0, 1.0)]
    pieces = [furniture.bench, furniture.tree, furniture.crate, furniture.pillar, furniture.plant, furniture.car]
    scatter(b, rng.integers(0, 25), 2, far * 0.9, taken, pieces)
    _lamps(b, int(rng.integers(1, 6)) if night or rng.uniform() < 0.4 else 0, far * 0.7)
    _far(b, -0.6, far * 2)
    return float(rng.uniform(1.3, 2.1))


def park(b: Builder) -> float:
    """Build lawns with paths, hedges, flower beds and trees, some above the camera. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    lawn = materials.foliage(rng) if rng.uniform() < 0.5 else materials.ground(rng)
    b.box((0, 0, -0.5), (600, 600, 1), lawn, "floor")
    path = materials.choose(rng, "floor") if rng.uniform() < 0.5 else materials.mottled(rng)
    for _ in range(rng.integers(0, 4)):
        centre, size = (rng.normal(0, 2), rng.normal(0, 3), 0), (120, rng.uniform(1, 4), 0.04)
        b.box(centre, size, path, "floor", rng.uniform(0, 3.2))
    taken = [(0.0, 0.0, 1.1)]
    hedge = materials.foliage(rng)
    for _ in range(rng.integers(0, 6)):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(2.5, 20)
        s = (rng.uniform(0.4, 1.2), rng.uniform(2, 14), rng.uniform(0.5, 2.5))
        b.box((far, 0, s[2] / 2), s, hedge, "otherprop", angle)
    for _ in range(rng.integers(0, 8)):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.8, 12)
        bed, flower = materials.foliage(rng), materials.plain(rng)
        x, y = float(np.cos(angle) * far), float(np.sin(angle) * far)
        r = min(rng.uniform(0.4, 2), 0.5 * far)
        b.blob((x, y, 0), (r, r, rng.uniform(0.2, 0.6)), bed, "otherprop", rough=0.2)
        for dx, dy in rng.uniform(-r, r, (rng.integers(0, 5), 2)) * 0.6:
            b.blob((x + dx, y + dy, 0.45), (0.12, 0.12, 0.15), flower, "otherprop", rough=0.2)
    pieces = [[furniture.tree], [furniture.tree, furniture.bush, furniture.bench], furniture.OUTDOORS]
    scatter(b, rng.integers(3, 30), 2, rng.uniform(10, 50), taken, pieces[rng.integers(3)])
    for _ in range(rng.integers(0, 4)):  # crowns overhead
        x, y = rng.normal(0, 2.5, 2)
        leaves = materials.foliage(rng)
        for _ in range(rng.integers(3, 8)):
            at = (x + rng.normal(0, 1), y + rng.normal(0, 1), rng.uniform(4, 7))
            b.blob(at, tuple(rng.uniform(0.5, 1.4, 3)), leaves, "otherprop", rough=0.35)
    if night:
        _lamps(b, 4, 14)
    _far(b, -0.6)
    return float(rng.uniform(1.3, 2))


def shore(b: Builder) -> float:
    """Build a beach, a quay or a meadow at the water, with land beyond it. Return the camera's height."""
    rng = b.rng
    night = weather.sky(rng).night
    yaw, level = float(rng.uniform(0, 2 * np.pi)), -float(rng.uniform(0.3, 4))
    edge = float(rng.uniform(1.5, 25))
    land = materials.ground(rng) if rng.uniform() < 0.6 else materials.choose(rng, "floor")
    b.box((0, edge - 300, -2), (600, 600, 4), land, "floor", yaw)
    if rng.uniform() < 0.4:
        _railing(b, turned((-40, edge, 0), yaw)[:2], turned((40, edge, 0), yaw)[:2], rng.uniform(0.4, 1.1),
                 materials.choose(rng, "solid"))  # fmt: skip
    taken = [(0.0, 0.0, 1.0)]
    scatter(b, rng.integers(0, 18), 2, edge, taken, furniture.OUTDOORS)
    b.box((0, 0, level - 0.5), (4000, 4000, 1), _water(), "floor")
    for _ in range(rng.integers(0, 5)):  # a town or trees behind
        x, y = rng.uniform(-40, 40), -rng.uniform(8, 60)
        s = rng.uniform(3, 12, 3)
        b.box((x, y - s[1], s[2] / 2), tuple(s), materials.choose(rng, "wall"), "otherstructure", yaw)
    if night:
        _lamps(b, 3, edge + 2)
    _far(b, level - 0.6, edge + 60)
    return float(rng.uniform(1.3, 2.2))
