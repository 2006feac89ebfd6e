"""The training scenes: rooms, courtyards, streets and landscapes, drawn from a seed.

The camera stands at the origin's vertical, `camera_height_m` over the ground; panorama axes are world axes (sphere.py).
"""

# bpy comes without declarations.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import bpy
import numpy as np

from . import furniture, materials
from .build import Builder
from .furniture import clear_of


def sky(rng: np.random.Generator, night: bool = False) -> float:
    """A world: physical sky, clouds over a gradient, or night. Returns its rough brightness, 1 for a clear day."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()

    def add(kind: str, **settings):
        node = tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        return node

    background, output = add("ShaderNodeBackground"), add("ShaderNodeOutputWorld")
    tree.links.new(background.outputs[0], output.inputs[0])
    if not night and rng.uniform() < 0.4:
        node = add("ShaderNodeTexSky", sky_type="NISHITA", sun_disc=True)
        node.sun_elevation = rng.uniform(0.02, 1.4)
        node.sun_rotation = rng.uniform(0, 2 * np.pi)
        node.sun_intensity = rng.uniform(0.05, 1)
        node.air_density, node.dust_density = rng.uniform(0.5, 3), rng.uniform(0, 5)
        tree.links.new(node.outputs[0], background.inputs[0])
        background.inputs[1].default_value = rng.uniform(0.1, 0.3)
        return 1.0
    hue = rng.uniform(0.5, 0.68) if rng.uniform() < 0.7 else rng.uniform(0, 1)
    zenith = materials.shade(materials.colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9)), 1)
    horizon = materials.colorsys.hsv_to_rgb(rng.choice([hue, 0.08, 0.12]), rng.uniform(0, 0.5), rng.uniform(0.5, 0.95))
    cloud = (rng.uniform(0.3, 0.95),) * 3
    coordinates = add("ShaderNodeTexCoord").outputs["Generated"]
    separate = add("ShaderNodeSeparateXYZ")
    tree.links.new(coordinates, separate.inputs[0])
    ramp = add("ShaderNodeValToRGB")
    tree.links.new(separate.outputs["Z"], ramp.inputs[0])
    ramp.color_ramp.elements[0].color = (*horizon, 1)
    ramp.color_ramp.elements[1].color = (*zenith, 1)
    ramp.color_ramp.elements[1].position = rng.uniform(0.2, 1)
    stretch = add("ShaderNodeMapping")
    stretch.inputs["Scale"].default_value = (1, 1, rng.uniform(1, 5))
    tree.links.new(coordinates, stretch.inputs[0])
    noise = add("ShaderNodeTexNoise")
    tree.links.new(stretch.outputs[0], noise.inputs["Vector"])
    noise.inputs["Scale"].default_value = rng.uniform(1, 6)
    noise.inputs["Detail"].default_value = 4
    cover = add("ShaderNodeMapRange")
    tree.links.new(noise.outputs["Fac"], cover.inputs["Value"])
    threshold = rng.uniform(0.3, 0.75)
    cover.inputs["From Min"].default_value, cover.inputs["From Max"].default_value = (
        threshold,
        threshold + rng.uniform(0.05, 0.4),
    )
    mix = add("ShaderNodeMix", data_type="RGBA")
    tree.links.new(cover.outputs[0], mix.inputs[0])
    tree.links.new(ramp.outputs[0], mix.inputs[6])
    mix.inputs[7].default_value = (*cloud, 1)
    tree.links.new(mix.outputs[2], background.inputs[0])
    brightness = float(rng.uniform(0.002, 0.05)) if night else float(rng.uniform(0.5, 1.5))
    background.inputs[1].default_value = brightness
    if not night and rng.uniform() < 0.6:
        sun = bpy.data.lights.new("sun", "SUN")
        sun.energy, sun.angle = rng.uniform(1, 6), rng.uniform(0.005, 0.1)
        sun.color = (1, rng.uniform(0.8, 1), rng.uniform(0.5, 1))
        thing = bpy.data.objects.new("sun", sun)
        thing.rotation_euler = (rng.uniform(-1.3, 1.3), 0, rng.uniform(0, 2 * np.pi))
        bpy.context.scene.collection.objects.link(thing)
    return brightness


def _wall(b: Builder, start, end, height: float, material, openings: list[tuple], thickness: float = 0.2) -> None:
    """A wall from start to end (x, y), with openings (from_m, to_m, sill_m, top_m) along it, sorted."""
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
    """A door's leaf (or none: it stands open), or a window's bars and curtains. The room lies left of start → end."""
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
            b.blob(_turned((left + 0.1, -0.05, 1.0), yaw, pivot), (0.04, 0.04, 0.04), materials.metal(rng), "door")
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


def _turned(point, yaw: float, pivot) -> tuple[float, float, float]:
    c, s = np.cos(yaw), np.sin(yaw)
    return float(pivot[0] + c * point[0] - s * point[1]), float(pivot[1] + s * point[0] + c * point[1]), float(point[2])


def _floor_plan(rng: np.random.Generator) -> np.ndarray:
    """Corners of a room, anticlockwise, (N, 2) metres; the camera at (0, 0) is at least 0.6 m inside."""
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
    """A furnished room with openings to the outside. Returns the camera's height."""
    rng = b.rng
    night = rng.uniform() < 0.25
    sky(rng, night)
    plan = _floor_plan(rng)
    yaw = rng.uniform(0, 2 * np.pi)
    plan = plan @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    height = rng.uniform(2.3, 3.2) if rng.uniform() < 0.8 else rng.uniform(3.2, 6)
    wall, frame = materials.choose(rng, "wall"), materials.choose(rng, "solid")
    n = len(plan)
    flat = np.c_[plan, np.zeros(n)]
    slab = [tuple(range(n))]
    b.mesh(flat, slab, materials.choose(rng, "floor"), "floor")
    ceiling = materials.plain(rng) if rng.uniform() < 0.6 else materials.choose(rng, "wall")
    b.mesh(flat + np.array([0, 0, height]), [tuple(range(n - 1, -1, -1))], ceiling, "ceiling")
    taken = [(0.0, 0.0, 0.55)]
    open_walls = 0
    for index in range(n):
        start, end = plan[index], plan[(index + 1) % n]
        length = float(np.linalg.norm(end - start))
        material = wall if rng.uniform() < 0.8 else materials.choose(rng, "wall")
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
        open_walls += sum(not door for door in doors)
        # The room lies left of start → end (anticlockwise), so walls grow to the right, outwards.
        _wall(b, start, end, height, material, openings)
        for opening, door in zip(openings, doors, strict=True):
            _fill_opening(b, start, end, opening, door, frame)
        along, inward = (end - start) / length, np.array([-(end - start)[1], (end - start)[0]]) / length
        wall_yaw = float(np.arctan2(along[1], along[0]))
        if rng.uniform() < 0.7:
            b.box((length / 2, 0.01, 0.05), (length, 0.03, 0.1), frame, "wall", wall_yaw, tuple(start))
        _along_wall(b, start, along, inward, length, wall_yaw, openings, taken, height)
    _standing(b, plan, taken)
    _ceiling_lights(b, plan, height, night or open_walls == 0)
    _outside(b, plan)
    return float(rng.uniform(1.2, min(1.9, height - 0.5)))


def _along_wall(b: Builder, start, along, inward, length, yaw, openings, taken, height) -> None:
    """Furniture with its back to the wall, pictures and mirrors on it."""
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


def _standing(b: Builder, plan: np.ndarray, taken: list) -> None:
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


def _ceiling_lights(b: Builder, plan: np.ndarray, height: float, needed: bool) -> None:
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


def _outside(b: Builder, plan: np.ndarray) -> None:
    """What windows look on: ground, and maybe houses and trees."""
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


def _facade(b: Builder, start, end, height: float) -> None:
    """A house front with rows of windows; the street lies left of start → end."""
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


def _scatter(b: Builder, count: int, near: float, far: float, taken: list, pieces: list, z=lambda x, y: 0.0) -> None:
    rng = b.rng
    for _ in range(count):
        angle, distance = rng.uniform(0, 2 * np.pi), near + rng.beta(1, 2) * (far - near)
        x, y = float(np.cos(angle) * distance), float(np.sin(angle) * distance)
        if clear_of(taken, x, y, 0.7):
            pieces[rng.integers(len(pieces))](b, (x, y, float(z(x, y)), float(rng.uniform(0, 2 * np.pi))))
            taken.append((x, y, 0.7))


def courtyard(b: Builder) -> float:
    """A yard between house fronts, some sides open."""
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
    corners = corners @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    for index in range(4):
        if rng.uniform() < 0.75:
            _facade(b, corners[index], corners[(index + 1) % 4], rng.uniform(2.5, 12))
    taken = [(0.0, 0.0, 0.9)]
    _scatter(b, rng.integers(2, 14), 1.2, float(half.mean()), taken, furniture.OUTDOORS)
    if night:
        for _ in range(3):
            x, y = rng.uniform(-half.mean(), half.mean(), 2)
            furniture.street_lamp(b, (float(x), float(y), 0, 0), float(rng.uniform(30, 200)))
    return float(rng.uniform(1.3, 2))


def street(b: Builder) -> float:
    """A street between two rows of houses."""
    rng = b.rng
    night = rng.uniform() < 0.25
    sky(rng, night)
    yaw = rng.uniform(0, 2 * np.pi)

    def turn(x: float, y: float) -> tuple[float, float]:
        return _turned((x, y, 0), yaw, (0, 0))[:2]

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
                _facade(b, start, end, rng.uniform(3, 16))
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
    """Hills, water, trees and rocks, maybe a house."""
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
    _scatter(b, rng.integers(3, 45), 2, rng.uniform(15, 60), taken, pieces[rng.integers(4)], ground)
    if rng.uniform() < 0.3:
        angle = rng.uniform(0, 2 * np.pi)
        at, along = (
            np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(6, 25),
            np.array([-np.sin(angle), np.cos(angle)]),
        )
        half = rng.uniform(3, 8)
        _facade(b, at - along * half, at + along * half, rng.uniform(2.5, 7))
    return float(rng.uniform(1.3, 2.2))


def build(rng: np.random.Generator) -> float:
    """A random scene in the empty open file. Returns the camera's height over the ground in metres."""
    makers = (room, courtyard, street, landscape)
    return makers[rng.choice(4, p=(0.58, 0.14, 0.14, 0.14))](Builder(rng))
