"""Halls: polygonal plans with flat, sloping or pointed ceilings, columns and steps."""

from __future__ import annotations

import numpy as np

from . import materials
from .build import Builder, turned, turned_plan
from .furniture import clear_of
from .room import ceiling_lights, outside, place_furniture, wall_with_openings
from .sky import sky


def _plan(rng: np.random.Generator) -> np.ndarray:
    """Return the corners of a convex plan of five to nine walls around the camera, anticlockwise, (N, 2) in metres."""
    n = rng.integers(5, 10)
    angle = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n * 2 * np.pi
    long = np.exp(rng.uniform(np.log(2.2), np.log(28)))
    # Corners on an ellipse form a convex polygon.
    corners = np.c_[np.cos(angle) * long, np.sin(angle) * long * rng.uniform(0.35, 1)]
    corners[:, 1] *= max(1, 1.8 / np.abs(corners[:, 1]).max())
    shift = rng.uniform(-0.4, 0.4, 2) * np.abs(corners).min(0).clip(1)
    yaw = rng.uniform(0, 2 * np.pi)
    return turned_plan(corners + shift, yaw)


def _ceiling(b: Builder, plan: np.ndarray, height: float) -> tuple[float, float]:
    """Add a flat, sloping, pointed or concave ceiling. Return the heights of its lowest and its highest corner."""
    rng = b.rng
    size = np.ptp(plan, axis=0).max()
    slope = rng.uniform(-0.6, 0.6, 2) * rng.choice([0, 1]) * min(1.0, 5 / size)
    corners = np.maximum(height + plan @ slope, 2.1)
    middle = plan.mean(0)
    apex = max(float(corners.mean() + rng.choice([0, 0.15, 0.3, 0.5, -0.06]) * min(size, 14)), 2.1)
    points = np.concatenate([np.c_[plan, corners], [[*middle, apex]]])
    n = len(plan)
    material = materials.choose(rng, rng.choice(["wall", "floor", "cloth"]))
    b.mesh(points, [((i + 1) % n, i, n) for i in range(n)], material, "ceiling")
    return float(min(corners.min(), apex)), float(corners.max())


def hall(b: Builder) -> float:
    """Build a hall with some open sides. Return the camera's height."""
    rng = b.rng
    night = rng.uniform() < 0.25
    sky(rng, night)
    plan = _plan(rng)
    n = len(plan)
    b.mesh(np.c_[plan, np.zeros(n)], [tuple(range(n))], materials.choose(rng, "floor"), "floor")
    height = rng.uniform(2.3, 4) if rng.uniform() < 0.7 else rng.uniform(4, 8)
    low, top = _ceiling(b, plan, height)
    wall, frame = materials.choose(rng, "wall"), materials.choose(rng, "solid")
    taken = [(0.0, 0.0, 0.55)]
    for index in range(n):
        chance = rng.uniform()
        if chance < 0.12:
            continue  # open to the outside
        material = wall if chance < 0.8 else materials.patches(rng)
        wall_with_openings(b, plan[index], plan[(index + 1) % n], top, material, frame, taken)
    _columns(b, plan, top, taken)
    if np.ptp(plan, axis=0).max() > 16 and rng.uniform() < 0.7:
        _grid(b, plan, top, low, taken)
    if rng.uniform() < 0.3:
        _steps(b, plan, taken)
    place_furniture(b, plan, taken)
    ceiling_lights(b, plan, max(low, 2.25), True)
    outside(b, plan)
    return float(rng.uniform(1.2, 1.9))


def _columns(b: Builder, plan: np.ndarray, top: float, taken: list) -> None:
    """Add columns or square posts along a scaled-down copy of the plan, in half of the halls."""
    rng = b.rng
    if rng.uniform() < 0.5:
        return
    material, r = materials.choose(rng, "solid"), rng.uniform(0.08, 0.3)
    round_ones, where = rng.uniform() < 0.6, rng.uniform(0.5, 0.9)
    for x, y in plan * where:
        if clear_of(taken, x, y, r + 0.2):
            if round_ones:
                b.cylinder((x, y, 0), r, top, material, "otherstructure", top=r * rng.uniform(0.7, 1), sides=20)
            else:
                b.box((x, y, top / 2), (2 * r, 2 * r, top), material, "otherstructure")
            taken.append((float(x), float(y), r))


def _grid(b: Builder, plan: np.ndarray, top: float, low: float, taken: list) -> None:
    """Add rows of columns, shelves or partitions with lamps between them, as in garages, shops and offices."""
    rng = b.rng
    kind, material = rng.integers(3), materials.choose(rng, "wall")
    lamp = materials.emitter(rng, float(rng.uniform(3, 20)))
    step = rng.uniform(3, 7, 2)
    yaw = float(np.arctan2(*(plan[1] - plan[0])[::-1]))
    size = {0: rng.uniform(0.2, 0.6, 2), 1: rng.uniform((1, 0.3), (4, 0.8)), 2: rng.uniform((1, 0.05), (4, 0.15))}[kind]
    tall = top if kind == 0 else rng.uniform(1, 2.2)
    reach = np.abs(plan).max() * 0.8
    for x in np.arange(-reach, reach, step[0] + size[0]):
        for y in np.arange(-reach, reach, step[1] + size[1]):
            at = turned((x + rng.uniform(0, 0.3), y, 0), yaw)[:2]
            if not _inside(plan, at):
                continue
            if clear_of(taken, *at, float(size.max()) / 2 + 0.2):
                b.box((0, 0, tall / 2), (*size, tall), material, "otherstructure", yaw, at)
                taken.append((*at, float(size.max()) / 2))
            if rng.uniform() < 0.5:
                b.box((step[0] / 2, 0, low - 0.06), (1.2, 0.2, 0.06), lamp, "lamp", yaw, at)


def _inside(plan: np.ndarray, at) -> bool:
    """Return whether a point lies inside a convex, anticlockwise plan."""
    edge, to = np.roll(plan, -1, axis=0) - plan, np.asarray(at) - plan
    return bool((edge[:, 0] * to[:, 1] - edge[:, 1] * to[:, 0] > 0).all())


def _steps(b: Builder, plan: np.ndarray, taken: list) -> None:
    """Add steps up to a platform."""
    rng = b.rng
    x, y = plan[rng.integers(len(plan))] * 0.6
    if not clear_of(taken, x, y, 1.0):
        return
    material = materials.choose(rng, "floor")
    yaw, rise, wide = np.arctan2(y, x), rng.uniform(0.12, 0.3), rng.uniform(1.2, 3)
    for k in range(rng.integers(2, 7)):
        size = (1.6 - 0.25 * k, wide, rise)
        b.box((0.25 * k / 2, 0, (k + 0.5) * rise), size, material, "otherstructure", yaw, (x, y))
    taken.append((float(x), float(y), 1.2))
