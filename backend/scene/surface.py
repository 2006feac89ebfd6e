"""Layers → triangles.

Each pixel is a small quadrilateral on its own plane. Where corners of neighbours agree they are welded to one vertex;
where they don't, the surface is torn. Square blocks of pixels on one plane are merged, as a quadtree; a block's outline
has all vertices of the smaller ones beside it, so that there are no cracks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import grid, outlines, planes
from .layers import Layer, Links

#: Largest block in pixels, as a share of the panorama's width.
_MAX_BLOCK = 1 / 32
#: How far inside torn corners take their texture from, as a multiple of the way to the centre of their pixels.
_INWARD = 3.0
#: A pixel looks like those outside if it differs from them less than by this multiple of how it differs from inside.
_LIKE_OUTSIDE = 0.7
#: Shift of the texture inside a block that isn't seen, in pixels.
MAX_UV_ERROR_PX = 0.35
#: How far outlines against the sky are drawn in, as a share of the way from a pixel's edge to its centre.
_SHRINK = 0.15
#: Smallest relative difference of the distances of two planes at a crease.
_CREASE = 1e-4
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
class Welded:
    """Corners of all layers, welded."""

    stack: list[Layer]
    #: Links of each layer with itself.
    links: list[Links]
    #: Vertex of each corner of each pixel of each layer, (L, 4, H, W) int32; −1 where there is no surface.
    vertex: np.ndarray
    #: Distance of each vertex, (V,) float64, its ray (V, 3), and texture coordinates (V, 2).
    distance: np.ndarray
    ray: np.ndarray
    uv: np.ndarray


def weld(
    stack: list[Layer],
    links: Mapping[tuple[int, int], Links],
    rays: np.ndarray,
    noise: float,
    picture: np.ndarray | None = None,
) -> Welded:
    """Weld the corners of all layers.

    `links`: those between each pair of layers, by their indices. `noise`: see `Planes`. `picture`: the panorama,
    (H, W, 3), where edges of the layers may lie beside its own. Around corner (i, j),
    i = 0 … H, j = 0 … W − 1, each layer has four slots: the pixels above left, above right, below left, below right.
    """
    stack = list(stack)
    height, width = stack[0].distance.shape
    slots = range(4 * len(stack))

    def at_corners(array: np.ndarray, slot: int) -> np.ndarray:
        """Return the values of a pixel array (H, W) at each corner for a slot, flat; 0 beyond the poles."""
        out = np.zeros((height + 1, width), array.dtype)
        shifted = np.roll(array, 1, axis=1) if slot % 2 == 0 else array
        if slot % 4 < 2:
            out[1:] = shifted
        else:
            out[:-1] = shifted
        return out.ravel()

    solid = [at_corners(stack[slot // 4].solid, slot) for slot in slots]
    # (one slot, other slot, whether they are welded); a link belongs to the left or the upper pixel.
    joins: list[tuple[int, int, np.ndarray]] = []
    for (a, b), linked in links.items():
        for slot, other in ((0, 1), (2, 3)):
            joins.append((a * 4 + slot, b * 4 + other, at_corners(linked.right, slot)))
        for slot, other in ((0, 2), (1, 3)):
            joins.append((a * 4 + slot, b * 4 + other, at_corners(linked.below, slot)))
    plain = np.logical_and.reduce([linked for one, other, linked in joins if max(one, other) < 4])
    plain &= ~np.logical_or.reduce([np.zeros_like(plain), *solid[4:]])
    vertex = np.full((len(slots), (height + 1) * width), -1, np.int32)
    corners = np.flatnonzero(plain)
    vertex[:4, corners] = np.arange(len(corners))
    special = np.flatnonzero(~plain)
    groups = _groups([(one, other, linked[special]) for one, other, linked in joins], len(slots), len(special))
    total, place = len(corners), [corners]
    there = [some[special] for some in solid]
    for slot in slots:
        first = there[slot] & (groups[slot] == slot)
        ids = np.full(len(special), -1)
        ids[first] = total + np.arange(first.sum())
        place.append(special[first])
        total += int(first.sum())
        for member in slots[slot:]:
            mine = there[member] & (groups[member] == slot)
            vertex[member, special[mine]] = ids[mine]
    shaped = vertex.reshape(len(stack), 4, height + 1, width)
    pixel_vertex = np.empty((len(stack), 4, height, width), np.int32)
    for corner, (below, right) in enumerate(_CORNERS):
        # Pixel (i, j) lies in slot 3 of its top left corner, slot 2 of its top right one, and so on.
        pixel_vertex[:, corner] = np.roll(shaped[:, 3 - 2 * below - right], -right, axis=-1)[:, below : below + height]
    row, column = np.divmod(np.concatenate(place), width)
    centre, members = _centres(vertex[:, special], len(row))
    members[: len(corners)] = 4
    ends = outlines.edges(stack[0], links[0, 0], pixel_vertex[0])
    shift = outlines.smooth(ends, row, column, (height, width))
    # Outlines against the sky are drawn in a little: a thin line of surface in the sky shows more than one of sky.
    outline = ~np.logical_and.reduce(solid[:4])[row * width + column] & (row > 0) & (row < height) & (members < 4)
    shift[outline] += _SHRINK * centre[outline]
    ray = grid.corner_directions(height, width)[row, column]
    moved = shift.any(axis=1)
    ray[moved] = _directions((row + shift[:, 0])[moved] / height, (column + shift[:, 1])[moved] / width)
    distance = _positions(stack, vertex, rays, noise, ray, row, column)

    # A texture's outermost pixels are mixed with what is beside them: torn corners take theirs from further in.
    pull = centre * _INWARD
    if picture is not None:
        beside = _beside(picture, row, column, centre) & ~outline
        pull[beside] = centre[beside]
    pull[(row == 0) | (row == height), 0] = 0
    uv = np.stack([(column + pull[:, 1]) / width, 1 - np.clip(row + pull[:, 0], 0.5, height - 0.5) / height], axis=-1)
    # A hidden pixel whose corners are all those of one in front is no other surface.
    for index in range(1, len(stack)):
        same = (pixel_vertex[index] == pixel_vertex[:index]).all(axis=1).any(axis=0)
        pixel_vertex[index][:, same] = -1
        stack[index] = dataclasses.replace(stack[index], solid=stack[index].solid & ~same)
    return Welded(stack, [links[i, i] for i in range(len(stack))], pixel_vertex, distance, ray, uv)


def _groups(joins: list[tuple[int, int, np.ndarray]], slots: int, count: int) -> np.ndarray:
    """Return the smallest slot that each slot is welded to, directly or over others, (slots, count) int8."""
    label = np.repeat(np.arange(slots, dtype=np.int8)[:, None], count, axis=1)
    joins = [(one, other, np.flatnonzero(linked)) for one, other, linked in joins]
    changed = True
    while changed:
        changed = False
        for one, other, where in joins:
            first, second = label[one, where], label[other, where]
            if (first != second).any():
                label[one, where] = label[other, where] = np.minimum(first, second)
                changed = True
    return label


def _positions(
    stack: list[Layer],
    vertex: np.ndarray,
    rays: np.ndarray,
    noise: float,
    ray: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
) -> np.ndarray:
    """Return each vertex' distance along its ray, (V,)."""
    count = len(row)
    height, width = stack[0].distance.shape
    ray = ray.astype(np.float32)
    sums, weights = np.zeros(count), np.zeros(count)
    #: Of the visible layer: the distance of each of the four pixels' planes along the vertex' ray; NaN elsewhere.
    seen = np.full((4, count), np.nan, np.float32)
    for slot, ids in enumerate(vertex):
        layer = stack[slot // 4]
        corner = np.flatnonzero(ids >= 0)
        where = ids[corner]
        pixel = _pixel(slot, *np.divmod(corner, width), (height, width))
        own = layer.distance.ravel()[pixel]
        found = planes.intersect(layer.normal.reshape(-1, 3)[pixel], layer.offset.ravel()[pixel], ray[where])
        # A plane seen almost from its edge reaches far beyond its own pixel.
        found = np.clip(found, own * 0.8, own * 1.25)
        if slot < 4:
            seen[slot, where] = found
        # What is seen is exact; what is hidden joins it.
        weight = 1.0 if slot < 4 else 1e-6
        # In each slot a vertex has one pixel at most.
        sums[where] += found * weight
        weights[where] += weight
    distance = sums / weights
    _crease(distance, seen, stack[0], rays, max(_CREASE, noise), row, column)
    return distance


def _centres(vertex: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean offset of each vertex' pixels' centres in rows and columns (V, 2), and their number (V,); 0
    where it isn't in `vertex`.
    """
    members, centre = np.zeros(count), np.zeros((count, 2))
    for slot, ids in enumerate(vertex):
        where = ids[ids >= 0]
        members[where] += 1
        centre[where] += slot % 4 // 2 - 0.5, slot % 2 - 0.5
    return centre / np.maximum(members, 1)[:, None], members


def _beside(picture: np.ndarray, row: np.ndarray, column: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return which vertices (V,) have pixels that look like those outside, and not like those further in: the
    panorama (H, W, 3) shows the edge further in. `centre`: see `_centres`.
    """
    height, width, _ = picture.shape
    torn = np.flatnonzero(centre.any(axis=1))

    def colour(steps: float) -> np.ndarray:
        i, j = np.floor(np.stack([row[torn], column[torn]]) + steps * centre[torn].T).astype(int)
        return picture[np.clip(i, 0, height - 1), j % width]

    own, outside, inside = colour(1), colour(-1), colour(_INWARD)
    beside = np.zeros(len(row), bool)
    beside[torn] = np.abs(own - outside).max(axis=-1) < _LIKE_OUTSIDE * np.abs(own - inside).max(axis=-1)
    return beside


def _pixel(slot: int, row: np.ndarray, column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the flat index of the pixel of a slot of each corner."""
    return (row + slot % 4 // 2 - 1) * shape[1] + (column + slot % 2 - 1) % shape[1]


def _crease(
    distance: np.ndarray,
    seen: np.ndarray,
    layer: Layer,
    rays: np.ndarray,
    least: float,
    row: np.ndarray,
    column: np.ndarray,
) -> None:
    """Put vertices (V,) at creases where both planes meet: on the nearest plane if concave, on the farthest if convex.

    `seen`: distances of the four pixels' planes there, (4, V), NaN where a pixel has another vertex. `least`: relative
    difference of two planes' distances from which on they are a crease.
    """
    low, high = np.fmin.reduce(seen), np.fmax.reduce(seen)
    with np.errstate(invalid="ignore"):
        creased = np.flatnonzero(high > low * (1 + least))
    present = np.isfinite(seen[:, creased])
    pixel = np.stack([_pixel(slot, row[creased], column[creased], layer.distance.shape) for slot in range(4)])
    pixel = np.where(present, pixel, 0)
    flat_rays, normals, offsets = rays.reshape(-1, 3), layer.normal.reshape(-1, 3), layer.offset.ravel()
    concave, convex = np.ones(len(creased), bool), np.ones(len(creased), bool)
    for one, other in itertools.permutations(range(4), 2):
        both = present[one] & present[other]
        there = planes.intersect(normals[pixel[one]], offsets[pixel[one]], flat_rays[pixel[other]])
        own = layer.distance.ravel()[pixel[other]]
        concave &= ~both | (there >= own * (1 - least / 4))
        convex &= ~both | (there <= own * (1 + least / 4))
    # At an outline, the normal of a side that is seen almost from its edge is a guess.
    convex &= (high <= low * (1 + planes.TOLERANCE))[creased]
    distance[creased[concave]] = low[creased[concave]]
    distance[creased[convex]] = high[creased[convex]]


def _directions(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return unit rays (N, 3) in the frame of `sphere`."""
    lon, lat = (0.5 - u) * 2 * np.pi, (0.5 - v) * np.pi
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def triangulate(
    welded: Welded, blocks: Blocks, flatness: float, shift_px: float, most: int | None = None
) -> Surface | None:
    """Return the triangles of all layers; None if there are more than `most`.

    `flatness`: relative distance up to which blocks of pixels are merged to one polygon. `shift_px`: largest shift of
    the texture inside a block, from linear texture coordinates, in pixels.
    """
    height, width = welded.stack[0].distance.shape
    leaves = [blocks.leaf_levels(layer, flatness, shift_px) for layer in range(len(welded.stack))]
    squares = [[_Squares(*_blocks(leaf, level), 2**level) for level in range(int(leaf.max()) + 1)] for leaf in leaves]
    kept = np.zeros((height + 1, width), bool)
    for square in itertools.chain(*squares):
        for row, column in _CORNERS:
            kept[square.rows + row * square.size, (square.columns + column * square.size) % width] = True
    outlines_kept = [[_kept(kept, square) for square in layer] for layer in squares]
    if most is not None and sum(_count(keep) for keep in itertools.chain(*outlines_kept)) > most:
        return None
    vertex, distance = _merge_poles(welded)
    parts, counts = [], []
    for layer, some in enumerate(squares):
        made = [_polygons(vertex[layer], square, keep) for square, keep in zip(some, outlines_kept[layer], strict=True)]
        if some and some[0].size == 1:
            made[0] = _along_creases(made[0], welded.stack[layer], welded.ray, distance, some[0])
        parts += made
        counts.append(sum(map(len, made)))
    triangles = np.concatenate(parts)
    # Triangles at a pole have two corners there; where layers are welded, one triangle may be of both.
    proper = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1) & ~_repeated(triangles)
    ends = np.cumsum(counts)
    counts = tuple(int(proper[end - number : end].sum()) for number, end in zip(counts, ends, strict=True))
    triangles = triangles[proper]
    used, flat = np.unique(triangles, return_inverse=True)
    triangles = flat.reshape(-1, 3).astype(np.int32)
    ray = welded.ray[used]
    uv = _corner_uv(welded.uv[used], np.abs(ray[:, 2]) > 1 - 1e-12, triangles)
    return Surface(ray * distance[used, None], triangles, uv, counts)


def _repeated(triangles: np.ndarray) -> np.ndarray:
    """Return which triangles (T, 3) have the vertices of one before them, (T,) bool."""
    vertices = np.sort(triangles, axis=1)
    order = np.lexsort(vertices.T)  # equal ones stay in their order
    repeated = np.zeros(len(triangles), bool)
    repeated[order[1:]] = (vertices[order[1:]] == vertices[order[:-1]]).all(axis=1)
    return repeated


def _merge_poles(welded: Welded) -> tuple[np.ndarray, np.ndarray]:
    """Weld the vertices at each pole that lie at the distance of most of them; return `vertex` and `distance` so."""
    vertex, distance = welded.vertex.copy(), welded.distance.copy()
    for row, corners in ((0, (0, 1)), (vertex.shape[2] - 1, (2, 3))):
        ids = vertex[:, corners, row]
        present = ids[ids >= 0]
        if not len(present):
            continue
        usual = np.median(distance[present])
        near = np.unique(present[np.abs(distance[present] / usual - 1) < 0.02])
        if len(near):
            distance[near[0]] = usual
            vertex[:, corners, row] = np.where(np.isin(ids, near), near[0], ids)
    return vertex, distance


class Blocks:
    """How far square blocks of pixels, 2, 4, 8 … wide, lie from one plane, and how much their texture would shift."""

    def __init__(self, welded: Welded) -> None:
        self._solid = [layer.solid for layer in welded.stack]
        #: For each layer and level from 1: relative distance and shift in pixels of each block; infinite where torn.
        self._errors = [_block_errors(welded, layer) for layer in range(len(welded.stack))]

    def leaf_levels(self, layer: int, flatness: float, shift_px: float) -> np.ndarray:
        """Return the level of the largest block that each pixel is merged into; −1 where there is no surface."""
        solid = self._solid[layer]
        leaf = np.where(solid, 0, -1).astype(np.int8)
        valid = solid
        for level, (error, shift) in enumerate(self._errors[layer], 1):
            valid = _pooled(valid, np.logical_and) & (error <= flatness) & (shift <= shift_px)
            if not valid.any():
                break
            size = 2**level
            inside = slice(0, len(valid) * size), slice(0, valid.shape[1] * size)
            leaf[inside] = np.where(np.repeat(np.repeat(valid, size, 0), size, 1), level, leaf[inside])
        return leaf


def _pooled(values: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine each 2 × 2 children."""
    h, w = len(values) // 2 * 2, values.shape[1] // 2 * 2
    v = values[:h, :w]
    return combine(combine(v[0::2, 0::2], v[1::2, 0::2]), combine(v[0::2, 1::2], v[1::2, 1::2]))


def _block_errors(welded: Welded, layer: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return relative distance and shift of each block of each level; see Blocks."""
    surface, vertex = welded.stack[layer], welded.vertex[layer]
    height, width = surface.solid.shape
    errors = []
    if not surface.solid.any():
        return errors
    reach = np.where(vertex >= 0, welded.distance.astype(np.float32)[vertex], np.float32(1))  # [4, H, W]
    points = np.stack([axis[vertex] * reach for axis in welded.ray.T.astype(np.float32)])  # [3, 4, H, W]
    low, high = reach.min(axis=0), reach.max(axis=0)
    normal, centre, valid = surface.normal, np.moveaxis(points.mean(axis=1), 0, -1), surface.solid
    right, below = welded.links[layer]
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    for level in range(1, int(np.log2(max(2, width * _MAX_BLOCK))) + 1):
        size, half = 2**level, 2 ** (level - 1)
        rows, columns = height // size, width // size
        if not rows or not columns:
            break
        inside = slice(0, rows * size), slice(0, columns * size)
        normal, centre = _pooled(normal, np.add), _pooled(centre, np.add)
        low, high = _pooled(low, np.minimum), _pooled(high, np.maximum)
        valid = _pooled(valid, np.logical_and)
        # Links across the middle of the block.
        valid = valid & right[:, half - 1 :: size][: rows * size, :columns].reshape(rows, size, columns).all(axis=1)
        valid &= below[half - 1 :: size][:rows, : columns * size].reshape(rows, columns, size).all(axis=2)
        unit = normal / np.maximum(np.sqrt(grid.dot(normal, normal)), 1e-12)[..., None]
        offset = grid.dot(unit, centre) / size**2
        if not valid.any():
            break
        plane = unit / np.where(valid, offset, 1)[..., None]
        cells = points[:, :, inside[0], inside[1]].reshape(3, 4, rows, size, columns, size)
        # Within a block corners are welded: the top left ones of its pixels, and those at its other two sides, are all.
        error = np.where(valid, 0, np.float32(np.inf))
        for corner, (below_all, right_all) in enumerate(_CORNERS):
            some = cells[:, corner, :, slice(-below_all, None), :, slice(-right_all, None)]
            along = sum(some[axis] * plane[:, None, :, None, axis] for axis in range(3))
            error = np.maximum(error, np.abs(along - 1).max(axis=1).max(axis=-1))
        ratio = high / low
        steep = np.abs(np.tan(latitude[: rows * size].reshape(rows, size))).max(axis=1)[:, None]
        shift = size * (ratio - 1) / (2 * (ratio + 1)) + size**2 * (2 * np.pi / width) * steep / 8
        errors.append((error, shift.astype(np.float32)))
    return errors


def _blocks(leaf: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the top left pixel of each block of that level."""
    size = 2**level
    rows, columns = np.nonzero(leaf[::size, ::size] == level)
    return rows * size, columns * size


class _Squares(NamedTuple):
    """Square blocks of pixels: row and column of their top left pixels (B,), and how many pixels wide they are."""

    rows: np.ndarray
    columns: np.ndarray
    size: int

    def outline(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row (B, 4·size), column (B, 4·size) and corner (4·size) of the pixels along the outlines.

        Anticlockwise: down the left side, along the bottom, up the right side, back along the top.
        """
        size = self.size
        along, zero = np.arange(size), np.zeros(size, int)
        back, last = size - 1 - along, zero + size - 1
        rows, columns = np.concatenate([along, last, back, zero]), np.concatenate([zero, along, last, back])
        return self.rows[:, None] + rows, self.columns[:, None] + columns, np.repeat((0, 3, 2, 1), size)


def _kept(kept: np.ndarray, squares: _Squares) -> np.ndarray:
    """Return which corners along the outlines of blocks are `kept`, (B, 4·size) bool."""
    i, j, corner = squares.outline()
    offsets = np.array(_CORNERS)[corner]
    return kept[i + offsets[:, 0], (j + offsets[:, 1]) % kept.shape[1]]


def _count(keep: np.ndarray) -> int:
    """Return the number of triangles of blocks, by the corners that are kept; see `_polygons`."""
    number = keep.sum(axis=1)
    return int(np.where(number == 4, 2, number).sum())


def _polygons(vertex: np.ndarray, squares: _Squares, keep: np.ndarray) -> np.ndarray:
    """Return the triangles (T, 3) of square blocks, whose outline has the corners `keep`, see `_kept`.

    `vertex`: vertex of each pixel's corner, (4, H, W).
    """
    rows, columns, size = squares
    i, j, corner = squares.outline()
    outline = vertex[corner, i, j]  # [B, 4·size]
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


def _along_creases(
    triangles: np.ndarray, layer: Layer, ray: np.ndarray, distance: np.ndarray, pixels: _Squares
) -> np.ndarray:
    """Return the triangles (2 · B, 3) of pixels, cut along the diagonal whose middle lies nearer to the pixel's plane.

    `ray`, `distance`: of the vertices.
    """
    first, third, second = triangles[: len(triangles) // 2].T  # see _Squares.outline: 0, 3, 2
    fourth = triangles[len(triangles) // 2 :, 2]
    normal = layer.normal[pixels.rows, pixels.columns]
    offset = layer.offset[pixels.rows, pixels.columns]

    def away(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        middle = (ray[one] * distance[one, None] + ray[other] * distance[other, None]) / 2
        return np.abs(grid.dot(normal, middle) / offset - 1)

    turned = away(third, fourth) < away(first, second) - _CREASE
    other = np.concatenate([np.stack([third, second, fourth], -1), np.stack([third, fourth, first], -1)])
    return np.where(np.tile(turned, 2)[:, None], other, triangles)


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
