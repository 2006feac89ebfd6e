"""Furnished rooms with doors, windows, pictures and lamps."""

from __future__ import annotations

import numpy as np

from . import furniture, materials
from .build import Builder, turned, turned_plan
from .furniture import clear_of
from .sky import sky


def _wall(b: Builder, start, end, height: float, material, openings: list[tuple], thickness: float = 0.2) -> None:
    """Add a wall from start to end (x, y), with sorted openings (from_m, to_m, sill_m, top_m)."""
    start, end = np.array(start), np.array(end)
    length = float(np.linalg.norm(end - start))
    yaw = float(np.arctan2(end[1] - start[1], end[0] - start[0]))

    def piece(x0: float, x1: float, z0: float, z1: float) -> None:
        if x1 - x0 > 0.01 and z1 - z0 > 0.01:
            size = (x1 - x0, thickness, z1 - z0)
            b.box(((x0 + x1) / 2, -thickness / 2, (z0 + z1) / 2), size, material, "wall", yaw, tuple(start))

    x = -thickness
    for left, right, sill, top in openings:
        piece(x, left, 0, height)
        piece(left, right, 0, sill)
        piece(left, right, top, height)
        x = right
    piece(x, length + thickness, 0, height)


def _fill_opening(b: Builder, start, end, opening: tuple, door: bool, frame) -> None:
    """Add a door leaf (or none), or glazing bars and curtains. The room is to the left of start → end."""
    rng = b.rng
    yaw = float(np.arctan2(end[1] - start[1], end[0] - start[0]))
    left, right, sill, top = opening
    w, h, pivot = right - left, top - sill, tuple(start)
    middle = ((left + right) / 2, (sill + top) / 2)
    for x in (left, right):
        b.box((x, 0.0, middle[1]), (0.08, 0.06, h + 0.1), frame, "door" if door else "window", yaw, pivot)
    b.box((middle[0], 0.0, top), (w + 0.1, 0.06, 0.08), frame, "door" if door else "window", yaw, pivot)
    if door:
        if rng.uniform() < 0.75:
            leaf = materials.choose(rng, "solid")
            b.box((middle[0], -0.1, h / 2), (w, 0.05, h), leaf, "door", yaw, pivot)
            b.blob(turned((left + 0.1, -0.05, 1.0), yaw, pivot), (0.04, 0.04, 0.04), materials.metal(rng), "door")
        return
    for k in range(1, rng.integers(1, 4)):
        b.box((left + w * k / 3, -0.08, middle[1]), (0.05, 0.05, h), frame, "window", yaw, pivot)
    if rng.uniform() < 0.5:
        b.box((middle[0], -0.08, middle[1]), (w, 0.05, 0.05), frame, "window", yaw, pivot)
    b.box((middle[0], 0.05, sill), (w + 0.2, 0.2, 0.04), frame, "window", yaw, pivot)
    if rng.uniform() < 0.4:
        cloth = materials.choose(rng, "cloth")
        for x in (left - 0.15, right + 0.15):
            b.box((x, 0.12, middle[1]), (rng.uniform(0.25, 0.5), 0.06, h + 0.5), cloth, "curtain", yaw, pivot)


def _floor_plan(rng: np.random.Generator) -> np.ndarray:
    """Return the corners of a room, anticlockwise, (N, 2) in metres; the camera is at least 0.6 m inside."""
    big = rng.uniform() < 0.15
    a, b, c, d = rng.uniform(0.8, 10 if big else 3.5, 4)
    corners = [(-a, -b), (c, -b), (c, d), (-a, d)]
    if rng.uniform() < 0.4 and c > 1.2 and d > 1.2:
        x, y = rng.uniform(0.7, c - 0.3), rng.uniform(0.7, d - 0.3)
        corners = [(-a, -b), (c, -b), (c, y), (x, y), (x, d), (-a, d)]
    elif rng.uniform() < 0.2:
        cut = rng.uniform(0.2, 0.5) * min(a + c, b + d)
        if cut < min(c, d) * 0.8:
            corners = [(-a, -b), (c, -b), (c, d - cut), (c - cut, d), (-a, d)]
    return np.array(corners)


def room(b: Builder) -> float:
    """Build a furnished room with doors and windows. Return the camera's height."""
    rng = b.rng
    night = rng.uniform() < 0.25
    sky(rng, night)
    plan = _floor_plan(rng)
    yaw = rng.uniform(0, 2 * np.pi)
    plan = turned_plan(plan, yaw)
    height = rng.uniform(2.3, 3.2) if rng.uniform() < 0.8 else rng.uniform(3.2, 6)
    wall, frame = materials.choose(rng, "wall"), materials.choose(rng, "solid")
    n = len(plan)
    flat = np.c_[plan, np.zeros(n)]
    slab = [tuple(range(n))]
    b.mesh(flat, slab, materials.choose(rng, "floor"), "floor")
    ceiling = materials.plain(rng) if rng.uniform() < 0.6 else materials.choose(rng, "wall")
    b.mesh(flat + np.array([0, 0, height]), [tuple(range(n - 1, -1, -1))], ceiling, "ceiling")
    taken = [(0.0, 0.0, 0.55)]
    windows = 0
    for index in range(n):
        material = wall if rng.uniform() < 0.8 else materials.choose(rng, "wall")
        windows += wall_with_openings(b, plan[index], plan[(index + 1) % n], height, material, frame, taken)
    place_furniture(b, plan, taken)
    ceiling_lights(b, plan, height, night or windows == 0)
    outside(b, plan)
    return float(rng.uniform(1.2, min(1.9, height - 0.5)))


def wall_with_openings(
    b: Builder, start: np.ndarray, end: np.ndarray, height: float, material, frame, taken: list
) -> int:
    """Add a wall with doors, windows, a skirting board and furniture along it. Return the number of windows.

    The room is to the left of start → end (anticlockwise), and the wall's thickness extends outwards. Furniture is
    added to `taken` as discs (x, y, radius).
    """
    rng = b.rng
    length = float(np.linalg.norm(end - start))
    openings, doors = [], []
    x = rng.uniform(0.2, 1)
    while x < length - 1.0 and rng.uniform() < 0.75:
        door = bool(rng.uniform() < 0.35)
        w = rng.uniform(0.75, 1.1) if door else rng.uniform(0.5, min(2.5, length - x))
        if x + w > length - 0.1:
            break
        top = min(height - 0.15, rng.uniform(1.9, 2.4))
        openings.append((x, x + w, 0.0 if door else rng.choice([0.0, rng.uniform(0.3, 1.2)]), top))
        doors.append(door)
        x += w + rng.uniform(0.3, 2)
    _wall(b, start, end, height, material, openings)
    for opening, door in zip(openings, doors, strict=True):
        _fill_opening(b, start, end, opening, door, frame)
    along, inward = (end - start) / length, np.array([-(end - start)[1], (end - start)[0]]) / length
    yaw = float(np.arctan2(along[1], along[0]))
    if rng.uniform() < 0.7:
        b.box((length / 2, 0.01, 0.05), (length, 0.03, 0.1), frame, "wall", yaw, tuple(start))
    _along_wall(b, start, along, inward, length, yaw, openings, taken, height)
    return sum(not door for door in doors)


def _along_wall(b: Builder, start, along, inward, length, yaw, openings, taken, height) -> None:
    """Place furniture along the wall, and pictures and mirrors on it."""
    rng = b.rng
    x = rng.uniform(0.3, 1)
    while x < length - 0.3:
        free = all(not (left - 0.5 < x < right + 0.5) for left, right, _, _ in openings)
        at = start + along * x + inward * 0.4
        if free and rng.uniform() < 0.7 and clear_of(taken, at[0], at[1], 0.5):
            piece = furniture.AGAINST_WALL[rng.integers(len(furniture.AGAINST_WALL))]
            piece(b, (float(at[0]), float(at[1]), 0.0, yaw))
            taken.append((float(at[0]), float(at[1]), 0.6))
        if free and rng.uniform() < 0.45:
            w, h = rng.uniform(0.3, 1.2, 2)
            z = min(rng.uniform(1.4, 1.9), height - h / 2 - 0.1)
            is_mirror = rng.uniform() < 0.15
            face = materials.mirror(rng) if is_mirror else materials.choose(rng, "cloth")
            label = "mirror" if is_mirror else "picture"
            b.box((x, 0.02, z), (w + 0.06, 0.03, h + 0.06), materials.choose(rng, "solid"), label, yaw, tuple(start))
            b.box((x, 0.04, z), (w, 0.02, h), face, label, yaw, tuple(start))
        x += rng.uniform(0.7, 2.2)


def place_furniture(b: Builder, plan: np.ndarray, taken: list) -> None:
    """Place furniture in the middle of the room, and sometimes a rug."""
    rng = b.rng
    low, high = plan.min(0), plan.max(0)
    if rng.uniform() < 0.5:
        size = rng.uniform(0.8, 3, 2)
        spot = rng.normal(0, 0.6, 2)
        b.box(
            (*spot, 0.006),
            (*size, 0.012),
            materials.choose(rng, "cloth"),
            "floor mat",
            rng.uniform(0, 6.3),
            tuple(spot),
        )
    area = float(np.prod(high - low))
    for _ in range(rng.poisson(min(8, area / 5))):
        x, y = rng.uniform(low * 0.75, high * 0.75)
        if clear_of(taken, x, y, 0.55):
            piece = furniture.STANDING[rng.integers(len(furniture.STANDING))]
            piece(b, (float(x), float(y), 0.0, float(rng.uniform(0, 2 * np.pi))))
            taken.append((float(x), float(y), 0.6))


def ceiling_lights(b: Builder, plan: np.ndarray, height: float, needed: bool) -> None:
    """Add lamps under the ceiling, at least one if `needed`, and sometimes beams."""
    rng = b.rng
    count = rng.integers(1 if needed else 0, 5)
    low, high = plan.min(0) * 0.7, plan.max(0) * 0.7
    kind = rng.integers(4)
    lamp = materials.emitter(rng, float(rng.uniform(3, 30)))
    cord = materials.plain(rng)
    for _ in range(count):
        x, y = (float(v) for v in rng.uniform(low, high))
        if kind == 0:
            b.box((x, y, height - 0.02), (rng.uniform(0.3, 1.5), rng.uniform(0.2, 0.6), 0.03), lamp, "lamp")
        elif kind == 1:
            b.cylinder((x, y, height - 0.08), 0.2, 0.06, lamp, "lamp")
        elif kind == 2:
            drop = rng.uniform(0.3, min(1.2, height - 1.9))
            b.cylinder((x, y, height - drop), 0.01, drop, cord, "lamp", sides=6)
            b.blob((x, y, height - drop), (0.15, 0.15, 0.15), lamp, "lamp")
        else:
            b.cylinder((x, y, height - 0.01), 0.06, 0.008, lamp, "lamp")
    if rng.uniform() < 0.15:
        beam = materials.wood(rng)
        for y in np.arange(low[1] / 0.7, high[1] / 0.7, rng.uniform(0.6, 1.5)):
            b.box((0, float(y), height - 0.08), (float(np.ptp(plan[:, 0])), 0.12, 0.16), beam, "ceiling")


def outside(b: Builder, plan: np.ndarray) -> None:
    """Add ground outside the windows, and sometimes houses and trees."""
    rng = b.rng
    level = rng.choice([-0.3, -3.0, -9.0])
    b.box((0, 0, level - 0.5), (400, 400, 1), materials.ground(rng), "floor")
    reach = float(np.abs(plan).max()) + 2
    for _ in range(rng.integers(0, 12)):
        angle, far = rng.uniform(0, 2 * np.pi), reach + rng.exponential(12)
        x, y = float(np.cos(angle) * far), float(np.sin(angle) * far)
        if rng.uniform() < 0.4:
            size = rng.uniform(4, 14, 3)
            reachable = far - reach > size.max() * 0.75
            if reachable:
                b.box(
                    (x, y, level + size[2] / 2),
                    tuple(size),
                    materials.choose(rng, "wall"),
                    "otherstructure",
                    angle,
                    (0, 0),
                )
        else:
            furniture.tree(b, (x, y, float(level), 0.0))
