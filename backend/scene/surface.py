"""Layers → triangles.

Each pixel is a small quadrilateral on its own plane. Where corners of neighbours agree they are welded to one vertex;
where they don't, the surface is torn. Square blocks of pixels on one plane are merged, as a quadtree; a block's outline
has all vertices of the smaller ones beside it, so that there are no cracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import grid, planes
from .layers import Layer, agree

#: Largest block in pixels, as a share of the panorama's width.
_MAX_BLOCK = 1 / 32
#: Hidden surfaces are guesses: up to this relative difference more, they are joined rather than left with a gap.
_HIDDEN_TOLERANCE = 0.08
#: Shift of the texture inside a block that isn't seen, in pixels.
MAX_UV_ERROR_PX = 0.35
#: How far outlines against the sky are drawn in, as a share of the way from a pixel's edge to its centre.
_SHRINK = 0.15
#: Corners of a pixel, as seen from it: top left, top right, bottom right, bottom left. Offsets of the corner grid.
_CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in the panorama's frame, the place of the panorama at the origin."""

    #: (V, 3) float64, in the unit of the distances.
    positions: np.ndarray
    #: (T, 3) int32, anticlockwise seen from the origin.
    triangles: np.ndarray
    #: Equirectangular texture coordinates of each triangle's corners, (T, 3, 2): u to the right, v up. Triangles across
    #: the seam have u beyond 1.
    uv: np.ndarray
    #: Number of triangles of each layer; they come in that order.
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Welded:
    """Corners of all layers, welded."""

    #: Vertex of each corner of each pixel of each layer, (L, 4, H, W) int64; −1 where there is no surface.
    vertex: np.ndarray
    #: Distance of each vertex, (V,), its ray (V, 3), and UV.
    distance: np.ndarray
    ray: np.ndarray
    uv: np.ndarray
    #: Whether each pixel of each layer goes on to the right and below, in its layer, (L, H, W) bool.
    right: np.ndarray
    below: np.ndarray


def weld(stack: list[Layer], rays: np.ndarray, tolerance: float) -> _Welded:
    """Weld the corners of all layers."""
    height, width = stack[0].distance.shape
    count = len(stack)
    pairs = [(a, b) for a in range(count) for b in range(count)]
    allowed = {(a, b): tolerance if 0 in (a, b) else tolerance + _HIDDEN_TOLERANCE for a, b in pairs}
    right = {(a, b): agree(stack[a], stack[b], (0, 1), rays, allowed[a, b]) for a, b in pairs}
    below = {(a, b): agree(stack[a], stack[b], (1, 0), rays, allowed[a, b]) for a, b in pairs}
    for links in below.values():
        links[-1] = False  # its neighbour beyond the pole is itself
    # Slots around corner (i, j), i = 0 … H, j = 0 … W − 1: the pixels above left, above right, below left, below right.
    # label[layer * 4 + slot]: the smallest slot that it is welded to.
    label = [np.full((height + 1, width), index, np.int8) for index in range(4 * count)]

    def rows(array: np.ndarray, slot: int) -> np.ndarray:
        """Values of a pixel array (H, W) at each corner for a slot; False beyond the poles."""
        out = np.zeros((height + 1, width), array.dtype)
        shifted = np.roll(array, 1, axis=1) if slot in (0, 2) else array
        if slot < 2:
            out[1:] = shifted
        else:
            out[:-1] = shifted
        return out

    # (one slot, other slot, link at each corner); the link is indexed by the left or upper pixel.
    joins: list[tuple[int, int, np.ndarray]] = []
    for (a, b), link in right.items():
        joins.append((a * 4 + 0, b * 4 + 1, rows(link, 0)))
        joins.append((a * 4 + 2, b * 4 + 3, rows(link, 2)))
    for (a, b), link in below.items():
        joins.append((a * 4 + 0, b * 4 + 2, rows(link, 0)))
        joins.append((a * 4 + 1, b * 4 + 3, rows(link, 1)))
    for _ in range(4 * count):
        changed = False
        for one, other, link in joins:
            low = np.minimum(label[one], label[other])
            for slot in (one, other):
                update = link & (label[slot] > low)
                if update.any():
                    label[slot][update] = low[update]
                    changed = True
        if not changed:
            break

    corner_rays = grid.corner_directions(height, width)[:, :-1]
    solid = [rows(stack[slot // 4].solid, slot % 4) for slot in range(4 * count)]
    first = [solid[slot] & (label[slot] == slot) for slot in range(4 * count)]
    ids = np.full((4 * count, height + 1, width), -1)
    total = 0
    for slot in range(4 * count):
        number = int(first[slot].sum())
        ids[slot][first[slot]] = np.arange(total, total + number)
        total += number
    sums, weights, members, columns, lines = (np.zeros(total) for _ in range(5))
    at = np.indices((height + 1, width))
    slot_vertex = []
    for slot in range(4 * count):
        layer = stack[slot // 4]
        mine = solid[slot]
        vertex = np.take_along_axis(ids, label[slot][None].astype(np.intp), 0)[0]
        vertex = np.where(mine, vertex, -1)
        slot_vertex.append(vertex)
        normal = np.stack([rows(layer.normal[..., axis], slot % 4) for axis in range(3)], -1)[mine]
        distance = planes.intersect(normal, rows(layer.offset, slot % 4)[mine], corner_rays[mine])
        own = rows(layer.distance, slot % 4)[mine]
        # A plane seen almost from its edge reaches far beyond its own pixel.
        distance = np.clip(distance, own * 0.8, own * 1.25)
        where = vertex[mine]
        # What is seen is exact; what is hidden joins it.
        weight = np.full(len(where), 1.0 if slot < 4 else 1e-6)
        sums += np.bincount(where, distance * weight, total)
        weights += np.bincount(where, weight, total)
        members += np.bincount(where, minlength=total)
        columns += np.bincount(where, np.full(len(where), -0.5 if slot % 4 in (0, 2) else 0.5), total)
        lines += np.bincount(where, np.full(len(where), -0.5 if slot % 4 < 2 else 0.5), total)
    place = np.zeros((2, total), np.int64)
    for slot in range(4 * count):
        place[:, ids[slot][first[slot]]] = at[:, first[slot]]
    distance = sums / weights
    lines[(place[0] == 0) | (place[0] == height)] = 0
    pull = 3.0 / members
    uv = np.stack(
        [(place[1] + columns * pull) / width, 1 - np.clip(place[0] + lines * pull, 0.5, height - 0.5) / height], -1
    )
    ray = corner_rays[place[0], place[1]]
    # Outlines against the sky are drawn in a little: a thin line of surface in the sky shows more than one of sky.
    open_corner = ~np.logical_and.reduce([rows(stack[0].solid, slot) for slot in range(4)])
    open_corner[[0, -1]] = False
    torn = (members < 4) & open_corner[place[0], place[1]]
    row, column = (
        place[0, torn] + _SHRINK * lines[torn] / members[torn],
        place[1, torn] + _SHRINK * columns[torn] / members[torn],
    )
    ray[torn] = _directions(row / height, column / width)

    vertex = np.empty((count, 4, height, width), np.int64)
    for layer in range(count):
        for corner, (row, column) in enumerate(_CORNERS):
            # Pixel (i, j) lies in slot 3 of its top left corner, slot 2 of its top right one, and so on.
            slot = layer * 4 + (3 - 2 * row - column)
            grid_ = np.roll(slot_vertex[slot], -column, axis=1)
            vertex[layer, corner] = grid_[row : row + height]
    return _Welded(
        vertex, distance, ray, uv,
        np.stack([right[i, i] for i in range(count)]), np.stack([below[i, i] for i in range(count)]),
    )  # fmt: skip


def _directions(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return unit rays (N, 3) in the frame of `sphere`."""
    lon, lat = (0.5 - u) * 2 * np.pi, (0.5 - v) * np.pi
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def triangulate(stack: list[Layer], rays: np.ndarray, tolerance: float, flatness: float, shift_px: float) -> Surface:
    """Return the triangles of all layers.

    `tolerance`: relative difference up to which neighbours are welded (`layers.agree`). `flatness`: relative distance
    up to which blocks of pixels are merged to one polygon; 0 merges nothing. `shift_px`: largest shift of the texture
    inside a block, from linear texture coordinates, in pixels.
    """
    welded = weld(stack, rays, tolerance)
    height, width = stack[0].distance.shape
    levels = [_leaf_levels(welded, layer, stack[layer], flatness, shift_px) for layer in range(len(stack))]
    kept = np.zeros((height + 1, width), bool)
    for leaf in levels:
        for level in range(int(leaf.max()) + 1):
            rows, columns = _blocks(leaf, level)
            for row, column in _CORNERS:
                kept[rows + row * 2**level, (columns + column * 2**level) % width] = True
    vertex = _merge_poles(welded, height, width)
    parts, counts = [], []
    for layer, leaf in enumerate(levels):
        before = len(parts)
        for level in range(int(leaf.max()) + 1):
            rows, columns = _blocks(leaf, level)
            if len(rows):
                parts.append(_polygons(vertex[layer], kept, rows, columns, 2**level))
        counts.append(sum(map(len, parts[before:])))
    triangles = np.concatenate(parts) if parts else np.empty((0, 3), np.int64)
    # Triangles at a pole have two corners there.
    proper = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    ends = np.cumsum(counts)
    counts = tuple(int(proper[end - number : end].sum()) for number, end in zip(counts, ends, strict=True))
    triangles = triangles[proper]
    used, flat = np.unique(triangles, return_inverse=True)
    triangles = flat.reshape(-1, 3).astype(np.int32)
    ray = welded.ray[used]
    uv = _corner_uv(welded.uv[used], np.abs(ray[:, 2]) > 1 - 1e-12, triangles)
    return Surface(ray * welded.distance[used, None], triangles, uv, counts)


def _merge_poles(welded: _Welded, height: int, width: int) -> np.ndarray:
    """Weld the vertices at each pole that lie at the distance of most of them; return `welded.vertex` so changed."""
    vertex = welded.vertex.copy()
    for row, corners in ((0, (0, 1)), (height - 1, (2, 3))):
        ids = vertex[:, corners, row]
        present = ids[ids >= 0]
        if not len(present):
            continue
        distance = np.median(welded.distance[present])
        near = np.unique(present[np.abs(welded.distance[present] / distance - 1) < 0.02])
        if len(near):
            welded.distance[near[0]] = distance
            vertex[:, corners, row] = np.where(np.isin(ids, near), near[0], ids)
    return vertex


def _leaf_levels(welded: _Welded, layer: int, surface: Layer, flatness: float, shift_px: float) -> np.ndarray:
    """Return the level of the block that each pixel is merged into, 2^level pixels wide; −1: there is no surface."""
    height, width = surface.solid.shape
    level_of = np.where(surface.solid, 0, -1).astype(np.int8)
    if flatness <= 0:
        return level_of
    vertex = welded.vertex[layer]
    reach = np.where(vertex >= 0, welded.distance[vertex], 1)
    points = welded.ray[vertex] * reach[..., None]  # [4, H, W, 3]
    low, high = reach.min(axis=0), reach.max(axis=0)
    # Sums over blocks: normals, points; and links that hold.
    normal, valid = surface.normal, surface.solid
    centre = points.mean(axis=0)
    right, below = welded.right[layer], welded.below[layer]
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    for level in range(1, int(np.log2(max(2, width * _MAX_BLOCK))) + 1):
        size, half = 2**level, 2 ** (level - 1)
        rows, columns = height // size, width // size
        if not rows or not columns:
            break
        inside = slice(0, rows * size), slice(0, columns * size)

        def pooled(values: np.ndarray, how: np.ufunc) -> np.ndarray:
            """Combine 2 × 2 children."""
            h, w = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
            v = values[:h, :w]
            return how(how(v[0::2, 0::2], v[1::2, 0::2]), how(v[0::2, 1::2], v[1::2, 1::2]))

        normal, centre = pooled(normal, np.add), pooled(centre, np.add)
        low, high = pooled(low, np.minimum), pooled(high, np.maximum)
        valid = pooled(valid, np.logical_and)
        # Links across the middle of the block.
        blocks = right[inside].reshape(rows, size, columns, size)[:, :, :, half - 1].all(axis=1)
        valid &= blocks & below[inside].reshape(rows, size, columns, size)[:, half - 1].all(axis=-1)
        unit = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        offset = grid.dot(unit, centre) / size**2
        expanded = np.repeat(np.repeat(unit, size, 0), size, 1), np.repeat(np.repeat(offset, size, 0), size, 1)
        cells = points[:, inside[0], inside[1]]
        along = np.einsum("khwc,hwc->khw", cells, expanded[0])
        with np.errstate(divide="ignore", invalid="ignore"):  # blocks without a surface
            error = np.abs(along / expanded[1] - 1).max(axis=0)
        valid &= error.reshape(rows, size, columns, size).max(axis=(1, 3)) <= flatness
        ratio = high / low
        steep = np.abs(np.tan(latitude[: rows * size].reshape(rows, size))).max(axis=1)[:, None]
        bent = size * (ratio - 1) / (2 * (ratio + 1)) + size**2 * (2 * np.pi / width) * steep / 8
        valid &= bent <= shift_px
        if not valid.any():
            break
        level_of[inside] = np.where(np.repeat(np.repeat(valid, size, 0), size, 1), level, level_of[inside])
    return level_of


def _blocks(leaf: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the top left pixel of each block of that level."""
    size = 2**level
    rows, columns = np.nonzero(leaf[::size, ::size] == level)
    return rows * size, columns * size


def _polygons(vertex: np.ndarray, kept: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Return the triangles (T, 3) of square blocks, whose outline has all kept corners.

    `vertex`: vertex of each pixel's corner, (4, H, W). `rows`, `columns`: top left pixel of each block.
    """
    width = vertex.shape[2]
    along, zero = np.arange(size), np.zeros(size, int)
    back = size - 1 - along
    last = zero + size - 1
    # Anticlockwise: down the left side, along the bottom, up the right side, back along the top.
    pixel_rows = np.concatenate([along, last, back, zero])
    pixel_columns = np.concatenate([zero, along, last, back])
    corner = np.repeat((0, 3, 2, 1), size)
    offsets = np.array(_CORNERS)[corner]
    i, j = rows[:, None] + pixel_rows, columns[:, None] + pixel_columns
    outline = vertex[corner, i, j]  # [B, 4·size]
    keep = kept[i + offsets[:, 0], (j + offsets[:, 1]) % width]
    number = keep.sum(axis=1)
    simple = number == 4
    quads = outline[simple][keep[simple]].reshape(-1, 4)
    triangles = [quads[:, (0, 1, 2)], quads[:, (0, 2, 3)]]
    if not simple.all():
        outline, keep = outline[~simple], keep[~simple]
        middle = vertex[0, rows[~simple] + size // 2, columns[~simple] + size // 2]
        block, _ = np.nonzero(keep)
        start = outline[keep]
        ends = np.cumsum(keep.sum(axis=1))
        following = np.arange(1, len(start) + 1)
        following[ends - 1] = np.concatenate([[0], ends[:-1]])
        triangles.append(np.stack([middle[block], start, start[following]], axis=-1))
    return np.concatenate(triangles)


def _corner_uv(uv: np.ndarray, pole: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return UVs of the triangles' corners (T, 3, 2): continuous in each, also across the seam and at a pole."""
    corners = uv[triangles]
    at_pole = pole[triangles]
    u = corners[..., 0]
    reference = np.where(at_pole, -np.inf, u).max(axis=1, keepdims=True)
    u = np.where(~at_pole & (reference - u > 0.5), u + 1, u)
    others = np.where(at_pole, 0, u).sum(axis=1, keepdims=True) / np.maximum((~at_pole).sum(axis=1, keepdims=True), 1)
    corners[..., 0] = np.where(at_pole, others, u)
    return corners
