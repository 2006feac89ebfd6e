"""Object-space normals → a normal map in the tangent space of a mesh, as glTF, USD, OBJ and FBX use it.

The tangents are Blender's own, which are those of MikkTSpace. (http://www.mikktspace.com)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import bpy
import numpy as np

from . import rays

#: Pixels by which the map is continued beyond the triangles, so that filtering never reads others.
MARGIN_PX = 8
#: Pixels that are computed together.
_CHUNK_PX = 1 << 20


def bake(
    parts: Iterable[tuple[bpy.types.Mesh, np.ndarray]], normals: np.ndarray, strength: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return the tangent-space normals, (H, W, 3) float32 in [-1, 1], top row first, +Y up (OpenGL).

    `parts`: meshes of triangles only, and which of these show the map, (T,) bool. `normals`: (H, W, 3) unit vectors in
    the axes of the meshes, addressed by their UV maps; u may exceed [0, 1], v not. `strength`, (H, W, 1) or the same
    everywhere: how far the normal is that of the map, not of the mesh, as in a Normal Map node. Where no triangle is
    near, the result is (0, 0, 1).
    """
    height, width, _ = normals.shape
    result = np.zeros((height * width, 3), np.float32)
    covered = np.zeros(height * width, bool)
    flat = normals.reshape(-1, 3)
    share = np.broadcast_to(np.float32(strength), (height, width, 1)).reshape(-1, 1)
    for mesh, chosen in parts:
        uv, normal, tangent, sign = (values[chosen] for values in _corners(mesh))
        uv *= (width, height)
        uv[..., 1] = height - uv[..., 1]
        corners = np.concatenate([normal, tangent, sign[..., None]], axis=-1)
        for triangle, row, column, weights in _pixels(uv, height):
            pixel = row * width + column % width
            frame = np.einsum("nk,nkc->nc", weights, corners[triangle])
            own = frame[:, :3] / np.linalg.norm(frame[:, :3], axis=-1, keepdims=True)
            mixed = own + (flat[pixel] - own) * share[pixel]
            result[pixel] = _in_frame(mixed, frame[:, :3], frame[:, 3:6], np.sign(frame[:, 6:]))
            covered[pixel] = True
    _continue(result, covered, width)
    result[~covered] = (0, 0, 1)
    return result.reshape(height, width, 3)


def _corners(mesh: bpy.types.Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return UVs (T, 3, 2), normals (T, 3, 3), tangents (T, 3, 3) and signs of the bitangents (T, 3) of the corners."""
    count = len(mesh.loops)
    uv, normal = np.empty(2 * count, np.float32), np.empty(3 * count, np.float32)
    tangent, sign = np.empty(3 * count, np.float32), np.empty(count, np.float32)
    mesh.uv_layers[rays.UV_NAME].uv.foreach_get("vector", uv)
    mesh.calc_tangents(uvmap=rays.UV_NAME)
    mesh.loops.foreach_get("tangent", tangent)
    mesh.loops.foreach_get("bitangent_sign", sign)
    mesh.corner_normals.foreach_get("vector", normal)
    mesh.free_tangents()
    return uv.reshape(-1, 3, 2), normal.reshape(-1, 3, 3), tangent.reshape(-1, 3, 3), sign.reshape(-1, 3)


def _pixels(corners: np.ndarray, height: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the pixels whose centres are in triangles (T, 3, 2) given by column and row in pixels.

    A chunk has, of each pixel, its triangle, row and column (N,), and the weights of its triangle's corners (N, 3).
    """
    x, y = corners[..., 0].astype(np.float64), corners[..., 1].astype(np.float64)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    first = np.ceil(y.min(axis=1) - 0.5).astype(np.int64).clip(0, height)
    rows = np.floor(y.max(axis=1) - 0.5).astype(np.int64).clip(-1, height - 1) - first + 1
    rows[area == 0] = 0
    triangle, step = _repeated(rows)
    row = first[triangle] + step
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        ya, yb = y[triangle, start], y[triangle, end]
        with np.errstate(divide="ignore", invalid="ignore"):  # edges along the row cross it nowhere
            share = (row + 0.5 - ya) / (yb - ya)
        crossing = x[triangle, start] + share * (x[triangle, end] - x[triangle, start])
        crosses = (share >= 0) & (share <= 1)
        left = np.where(crosses, np.minimum(left, crossing), left)
        right = np.where(crosses, np.maximum(right, crossing), right)
    left, right = np.where(left > right, 0, left), np.where(left > right, -1, right)
    column = np.ceil(left - 0.5).astype(np.int64)
    columns = (np.floor(right - 0.5).astype(np.int64) - column + 1).clip(0)
    ends = np.cumsum(columns)
    for begin, end in _chunks(ends):
        span, step = _repeated(columns[begin:end])
        span += begin
        which = triangle[span]
        px, py = column[span] + step, row[span]
        dx, dy = px + 0.5 - x[which, 0], py + 0.5 - y[which, 0]
        b = (dx * (y[which, 2] - y[which, 0]) - dy * (x[which, 2] - x[which, 0])) / area[which]
        c = (dy * (x[which, 1] - x[which, 0]) - dx * (y[which, 1] - y[which, 0])) / area[which]
        yield which, py, px, np.stack([1 - b - c, b, c], axis=-1).astype(np.float32)


def _repeated(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each index `counts[index]` times, and its number among its repetitions."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def _chunks(ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of spans that hold about `_CHUNK_PX` pixels, from the number of pixels up to the end of each."""
    begin = 0
    while begin < len(ends):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK_PX, "right")))
        yield begin, end
        begin = end


def _in_frame(vectors: np.ndarray, normal: np.ndarray, tangent: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Return unit coordinates of `vectors` (N, 3) along tangent, bitangent and normal, which needn't be orthogonal.

    As a renderer does, the frame is interpolated from that of the corners and not normalised.
    """
    bitangent = sign * _cross(normal, tangent)
    along_t, along_b, along_n = _cross(bitangent, normal), _cross(normal, tangent), _cross(tangent, bitangent)
    # The common divisor, the determinant, only gives the sign; it is that of `sign`.
    local = np.stack([(vectors * axis).sum(-1) for axis in (along_t, along_b, along_n)], axis=-1)
    local *= np.where((tangent * along_t).sum(-1, keepdims=True) < 0, -1, 1)
    length = np.linalg.norm(local, axis=-1, keepdims=True)
    return np.where(length > 1e-12, local / np.maximum(length, 1e-12), np.array([0, 0, 1], np.float32))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a × b, (N, 3); `np.cross` is several times slower."""
    ax, ay, az = a.T
    bx, by, bz = b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def _continue(values: np.ndarray, covered: np.ndarray, width: int) -> None:
    """Give pixels around the covered ones, (H·W, …), the value of a neighbour, MARGIN_PX times."""
    shape = (len(covered) // width, width)
    for _ in range(MARGIN_PX):
        mask = covered.reshape(shape)
        reach = np.zeros(shape, np.int64)  # offset to a covered neighbour
        reach[1:][mask[:-1]] = -width
        reach[:-1][mask[1:]] = width
        for shift in (1, -1):
            reach[np.roll(mask, shift, axis=1)] = -shift
        grown = np.flatnonzero((reach != 0).ravel() & ~covered)
        if not len(grown):
            return
        source = grown + reach.ravel()[grown]
        # Left of the first column is the last one of the same row.
        beyond = np.abs(source % width - grown % width) > 1
        source[beyond] += np.where(source[beyond] % width == 0, -width, width)
        values[grown] = values[source]
        covered[grown] = True
