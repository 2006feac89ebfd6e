"""Courtyards, streets and landscapes."""

from __future__ import annotations

import numpy as np

from . import furniture, materials
from .build import Builder, turned, turned_plan
from .furniture import clear_of
from .sky import sky


def facade(b: Builder, start, end, height: float) -> None:
    """Add a facade with rows of windows; the street is to the left of start → end."""
    rng = b.rng
    start, end = np.array(start, dtype=float), np.array(end, dtype=float)
    length = float(np.linalg.norm(end - start))
    yaw = float(np.arctan2(end[1] - start[1], end[0] - start[0]))
    wall, frame = materials.choose(rng, "wall"), materials.choose(rng, "solid")
    pane = materials.mirror(rng) if rng.uniform() < 0.5 else materials.plain(rng)
    lit = materials.emitter(rng, float(rng.uniform(0.3, 3)))
    depth = rng.uniform(4, 10)
    b.box((length / 2, -depth / 2, height / 2), (length, depth, height), wall, "wall", yaw, tuple(start))
    if rng.uniform() < 0.5:
        roof = materials.bricks(rng)
        b.box(
            (length / 2, -depth / 2, height + 0.15),
            (length + 0.4, depth + 0.6, 0.3),
            roof,
            "otherstructure",
            yaw,
            tuple(start),
        )
    storey, pitch = rng.uniform(2.6, 3.5), rng.uniform(1.6, 3.5)
    w, h = rng.uniform(0.7, pitch * 0.7), rng.uniform(1.0, 1.8)
    for level in range(int(height / storey)):
        for k in range(int(length / pitch)):
            x, z = (k + 0.5) * pitch, level * storey + 0.9 + h / 2
            if level == 0 and rng.uniform() < 0.25:
                b.box((x, 0.02, 1.05), (1.0, 0.06, 2.1), frame, "door", yaw, tuple(start))
                continue
            glass = lit if rng.uniform() < 0.1 else pane
            b.box((x, 0.02, z), (w + 0.16, 0.06, h + 0.16), frame, "window", yaw, tuple(start))
            b.box((x, 0.05, z), (w, 0.04, h), glass, "window", yaw, tuple(start))


def scatter(b: Builder, count: int, near: float, far: float, taken: list, pieces: list, z=lambda x, y: 0.0) -> None:
    """Place random pieces around the camera; `z` gives the height of the ground."""
    rng = b.rng
    for _ in range(count):
        angle, distance = rng.uniform(0, 2 * np.pi), near + rng.beta(1, 2) * (far - near)
        x, y = float(np.cos(angle) * distance), float(np.sin(angle) * distance)
        if clear_of(taken, x, y, 0.7):
            pieces[rng.integers(len(pieces))](b, (x, y, float(z(x, y)), float(rng.uniform(0, 2 * np.pi))))
            taken.append((x, y, 0.7))


def courtyard(b: Builder) -> float:
    """Build a courtyard between facades, with some open sides. Return the camera's height."""
    rng = b.rng
    night = rng.uniform() < 0.2
    sky(rng, night)
    b.box(
        (0, 0, -0.5),
        (400, 400, 1),
        materials.choose(rng, "floor") if rng.uniform() < 0.6 else materials.ground(rng),
        "floor",
    )
    half = rng.uniform(2, 16, 4)
    corners = np.array([(-half[0], -half[1]), (half[2], -half[1]), (half[2], half[3]), (-half[0], half[3])])
    yaw = rng.uniform(0, 2 * np.pi)
    corners = turned_plan(corners, yaw)
    for index in range(4):
        if rng.uniform() < 0.75:
            facade(b, corners[index], corners[(index + 1) % 4], rng.uniform(2.5, 12))
    taken = [(0.0, 0.0, 0.9)]
    scatter(b, rng.integers(2, 14), 1.2, float(half.mean()), taken, furniture.OUTDOORS)
    if night:
        for _ in range(3):
            x, y = rng.uniform(-half.mean(), half.mean(), 2)
            furniture.street_lamp(b, (float(x), float(y), 0, 0), float(rng.uniform(30, 200)))
    return float(rng.uniform(1.3, 2))


def street(b: Builder) -> float:
    """Build a street between two rows of houses. Return the camera's height."""
    rng = b.rng
    night = rng.uniform() < 0.25
    sky(rng, night)
    yaw = rng.uniform(0, 2 * np.pi)

    def turn(x: float, y: float) -> tuple[float, float]:
        return turned((x, y, 0), yaw)[:2]

    width, offset = rng.uniform(6, 20), rng.uniform(-0.3, 0.3)
    left, right = width * (0.5 + offset), width * (0.5 - offset)
    b.box(
        (0, 0, -0.5), (400, 400, 1), materials.ground(rng) if rng.uniform() < 0.3 else materials.mottled(rng), "floor"
    )
    paving = materials.choose(rng, "floor")
    for side in (-1, 1):
        edge = left if side > 0 else right
        b.box((0, side * (edge - 0.8), 0.0), (200, 1.6, 0.24), paving, "floor", yaw, (0, 0))
        x = -60.0
        while x < 60:
            length = rng.uniform(5, 16)
            if rng.uniform() < 0.85:
                near, far = turn(x, side * edge), turn(x + length, side * edge)
                start, end = (far, near) if side > 0 else (near, far)
                facade(b, start, end, rng.uniform(3, 16))
            x += length + (rng.uniform(1, 6) if rng.uniform() < 0.2 else 0)
    for _ in range(rng.integers(0, 9)):
        side = rng.choice([-1, 1])
        x, y = turn(float(rng.uniform(-25, 25)), float(side * ((left if side > 0 else right) - 2.6)))
        if np.hypot(x, y) > 3.2:
            furniture.car(b, (x, y, 0, float(yaw)))
    for x in np.arange(-30, 30, rng.uniform(6, 15)):
        side = rng.choice([-1, 1])
        at = turn(float(x) + 2.0, float(side * ((left if side > 0 else right) - 1.3)))
        if np.hypot(*at) > 1.5:
            if rng.uniform() < 0.5:
                furniture.tree(b, (*at, 0, 0))
            else:
                furniture.street_lamp(b, (*at, 0, 0), float(rng.uniform(30, 200)) if night else 0.5)
    return float(rng.uniform(1.3, 2.1))


def landscape(b: Builder) -> float:
    """Build hills, water, trees and rocks, sometimes a house. Return the camera's height."""
    rng = b.rng
    sky(rng, rng.uniform() < 0.08)
    n, size = 90, 600.0
    line = np.linspace(-1, 1, n)
    line = np.sign(line) * np.abs(line) ** 2 * size / 2
    y, x = np.meshgrid(line, line, indexing="ij")
    heights = np.zeros((n, n))
    for _ in range(10):
        direction, wave = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(4), np.log(150)))
        heights += (
            0.03
            * wave
            * rng.uniform(0, 1)
            * np.sin((x * np.cos(direction) + y * np.sin(direction)) / wave * 2 * np.pi + rng.uniform(0, 6.3))
        )
    far = np.hypot(x, y)
    heights += (
        rng.uniform(0, 0.3)
        * np.clip(far - rng.uniform(40, 150), 0, None)
        * (0.5 + 0.5 * np.sin(3 * np.arctan2(y, x) + rng.uniform(0, 6.3)))
    )
    heights *= np.clip(far / 8, 0, 1)
    if rng.uniform() < 0.3:
        # A hilltop: the ground falls away on one or all sides.
        fall = np.clip(1.3 * np.cos(np.arctan2(y, x) - rng.uniform(0, 6.3)) + rng.uniform(0, 1.5), 0, 1)
        edge = rng.uniform(2, 20)
        heights -= rng.uniform(1, 25) * fall * np.clip((far - edge) / rng.uniform(3, 40), 0, 1)
    b.terrain(size, heights, materials.ground(rng), "floor")
    if rng.uniform() < 0.3:
        water = materials.Graph("water").finish((0.02, 0.05, 0.06), 0.05, 0.0)
        b.box((0, 0, rng.uniform(-1.5, -0.4) - 0.5), (size, size, 1), water, "floor")

    def ground(px: float, py: float) -> float:
        i = int(np.abs(line - py).argmin())
        j = int(np.abs(line - px).argmin())
        return float(heights[i, j]) - 0.1

    taken = [(0.0, 0.0, 1.2)]
    pieces = [[furniture.tree, furniture.bush, furniture.rock], [furniture.rock], [furniture.tree], furniture.OUTDOORS]
    scatter(b, rng.integers(3, 45), 2, rng.uniform(15, 60), taken, pieces[rng.integers(4)], ground)
    if rng.uniform() < 0.3:
        angle = rng.uniform(0, 2 * np.pi)
        at, along = (
            np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(6, 25),
            np.array([-np.sin(angle), np.cos(angle)]),
        )
        half = rng.uniform(3, 8)
        facade(b, at - along * half, at + along * half, rng.uniform(2.5, 7))
    return float(rng.uniform(1.3, 2.2))
