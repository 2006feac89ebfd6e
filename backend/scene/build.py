"""Maps → a mesh in metres: what the panorama shows, what continues behind its edges, and open sky."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...shared.imaging import sphere
from ...shared.imaging.true_scale import true_scale
from ...shared.jobs.scene import DEFAULT_TRIANGLES
from ...shared.protocol.errors import InputError
from ..io import panoramas, parallel
from . import (
    behind,
    edges,
    flatten,
    floor,
    fusion,
    grid,
    layers,
    objects,
    planes,
    regularise,
    sky,
    skyline,
    solids,
    surface,
)
from .floor import Floor
from .layers import Layer, Links
from .objects import Things
from .planes import Planes
from .solids import Solid
from .surface import Surface

#: How far a viewer moves from the panorama's place, as a multiple of the camera's height: surfaces go on behind edges
#: as far as can be seen from there.
REACH = 0.65
#: Smallest relative distance between the mesh and the planes where blocks of pixels are merged.
FLATNESS = 5e-4
#: Rows of maps that a mesh of the usual number of triangles is built from, and bounds for other numbers.
_ROWS, _MIN_ROWS, _MAX_ROWS = 720, 256, 2048
#: Cosine between ray and normal from which on a pixel's plane tells its distance beside.
_MIN_COSINE = 0.1
#: Hidden surfaces are guesses: up to this relative difference more, they are joined rather than left with a gap.
_HIDDEN_TOLERANCE = 0.08
#: Gaps of soft maps are small if they open by this many pixels at most for a viewer who moves by REACH.
_JOINED_PX = 6
#: Smallest distance between hidden surfaces and what is in front of them, in tolerances: they aren't welded then.
_CLEARANCE = 1.5
#: Flatness from which on a smaller number of triangles is given up.
_COARSEST = 0.05
#: Distance of everything as a multiple of the camera's height where there is no floor.
_WITHOUT_FLOOR = 0.5


@dataclass(frozen=True)
class Layered:
    """The surfaces of a mesh, pixel by pixel, before they are triangles."""

    layers: list[Layer]
    planes: Planes
    #: Where there is sky, (H, W) bool; of the size of the layers, which is not that of large maps.
    sky: np.ndarray
    #: Metres per unit of distance.
    scale: float
    #: Whether that is a guess: neither given, nor told by a floor or by true distances.
    is_guess: bool
    #: None if there is none.
    floor: Floor | None
    #: Links of each pair of layers, by their indices.
    links: dict[tuple[int, int], Links]
    #: Things that get a mesh of their own, and what fills the room behind them; None without any.
    found_things: Things | None
    filling: Layer | None
    #: The panorama, sRGB, (H, W, 3), beside whose edges those of soft maps may lie; None for exact ones, or without it.
    picture: np.ndarray | None


@dataclass(frozen=True)
class Built(Layered):
    """A mesh, and how it was made."""

    #: In metres.
    surface: Surface
    #: Largest relative distance between mesh and planes where pixels are merged.
    flatness: float
    #: Things with a mesh of their own, in metres; see `solids.close` for their triangles.
    things: tuple[Solid, ...] = ()


def build(
    distance: np.ndarray, normal: np.ndarray | None, *, max_triangles: int = DEFAULT_TRIANGLES, **options: Any
) -> Built:
    """Build the mesh of a distance map (H, W) with unit normals (H, W, 3). `options`: see `find_layers`."""
    return mesh(find_layers(distance, normal, max_triangles=max_triangles, **options), max_triangles)


def find_layers(
    distance: np.ndarray,
    normal: np.ndarray | None,
    *,
    sky_candidates: np.ndarray | None = None,
    picture: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    camera_height_m: float = 1.6,
    scale: float | None = None,
    known_distances: np.ndarray | None = None,
    world_from_panorama: np.ndarray | None = None,
    max_triangles: int = DEFAULT_TRIANGLES,
) -> Layered:
    """Find the surfaces that a distance map (H, W) with unit normals (H, W, 3) shows, and those behind them.

    `sky_candidates`: see `sky.find`. `picture`: the panorama, sRGB, of any size: see `skyline.refine`, `edges.joined`.
    `classes`: see `objects.find`; None: no thing has a mesh of its own. `scale`: metres per unit of distance (None: by
    `known_distances`, as in SceneRequest, else by the floor and `camera_height_m`). `world_from_panorama`: rotation
    (3, 3), which tells what is vertical.
    """
    distance, normal, sky_candidates, classes = _sampled(
        distance, normal, sky_candidates, classes, _rows(max_triangles)
    )
    open_sky = sky.infinite(distance)
    finite = distance
    if open_sky.any() and not open_sky.all():
        finite = np.where(open_sky, 1.5 * distance[~open_sky].max(), distance)
    elif open_sky.all():
        finite = np.ones_like(distance)
    found = planes.fit(finite, normal)
    if picture is not None:  # exact maps tell themselves where edges are
        picture = panoramas.resize(picture, len(distance)) if found.noise >= regularise.EXACT else None
    found = regularise.regularise(found, sky_candidates, normal)
    if not open_sky.any():
        open_sky = sky.find(found.distance, sky_candidates, normal)
        if picture is not None:
            found, open_sky = skyline.refine(found, open_sky, picture, finite)
    if open_sky.all():
        raise InputError("The maps show nothing but sky.", "There is nothing to build a mesh of.")
    found = dataclasses.replace(
        found,
        distance=np.where(open_sky, 1, found.distance),
        normal=np.where(open_sky[..., None], -found.rays, found.normal),
        solid=~open_sky,
    )
    if found.noise >= regularise.EXACT:
        found = flatten.flatten(found if normal is None else fusion.fuse(found, normal, picture))
    ground = floor.find(found, np.array([0.0, 0.0, 1.0]) if world_from_panorama is None else world_from_panorama[2])
    unit = ground.height if ground is not None else _WITHOUT_FLOOR * float(np.median(found.distance[found.solid]))
    if scale is None and known_distances is not None:
        scale = true_scale(np.where(found.solid, found.distance, np.inf), known_distances)
    is_guess = scale is None and ground is None
    if scale is None:
        scale = camera_height_m / unit
    tolerance = planes.TOLERANCE + 3 * found.noise
    visible = layers.visible(found)
    seen = layers.link(visible, visible, found.rays, tolerance)
    if picture is not None:
        slack = _JOINED_PX * 2 * np.pi / (distance.shape[1] * REACH * unit)
        seen = edges.joined(visible, seen, found.rays, slack, picture)
    room, room_links, rest, filling, things = visible, seen, visible, [], None
    if classes is not None:
        things = objects.find(classes, visible, seen)
    if things is not None and things.names:
        # Each thing is a surface of its own; behind all of them, the room is filled.
        thing = things.label > 0
        fill = behind.fill(visible, things.label, found.rays, tolerance)
        rest = dataclasses.replace(visible, solid=visible.solid & ~thing)
        room, filling = behind.joined(rest, fill), [fill]
        seen = objects.cut(seen, things.label)
        room_links = layers.link(room, room, found.rays, tolerance)
    stack = [visible, *layers.hidden(room, room_links, found.rays, REACH * unit, _CLEARANCE * tolerance), *filling]

    def link(pair: tuple[int, int]) -> Links:
        one, other = (stack[index] if index else rest for index in pair)
        return layers.link(one, other, found.rays, tolerance if 0 in pair else tolerance + _HIDDEN_TOLERANCE)

    pairs = [(one, other) for one in range(len(stack)) for other in range(len(stack)) if one or other]
    links = {(0, 0): seen, **dict(zip(pairs, parallel.in_threads(link, pairs), strict=True))}
    return Layered(
        layers=stack, planes=found, sky=open_sky, scale=scale, is_guess=is_guess, floor=ground, links=links,
        found_things=things, filling=filling[0] if filling else None, picture=picture,
    )  # fmt: skip


def mesh(found: Layered, max_triangles: int) -> Built:
    """Build the mesh of layers, of about `max_triangles` at most."""
    noise = found.planes.noise
    welded = surface.weld(found.layers, found.links, found.planes.rays, noise, found.picture)
    blocks = surface.Blocks(welded)
    flatness, shift = max(FLATNESS, noise / 2), surface.MAX_UV_ERROR_PX
    while True:
        most = None if flatness > _COARSEST else max_triangles
        made = surface.triangulate(welded, blocks, flatness, shift, most)
        if made is not None:
            break
        flatness, shift = 2 * flatness, 1.5 * shift
    closed: list[Solid] = []
    if found.found_things is not None and found.filling is not None:
        made, closed = solids.close(made, found.found_things, found.filling)
    made = dataclasses.replace(made, positions=made.positions * found.scale)
    return Built(**vars(found), surface=made, flatness=flatness, things=tuple(closed))


def _rows(max_triangles: int) -> int:
    """Return how many rows of maps are used: more than a mesh of that size can show take time only."""
    return int(np.clip(_ROWS * np.sqrt(max_triangles / DEFAULT_TRIANGLES), _MIN_ROWS, _MAX_ROWS))


def _sampled(
    distance: np.ndarray,
    normal: np.ndarray | None,
    candidates: np.ndarray | None,
    classes: np.ndarray | None,
    rows: int,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return larger maps at that many rows: the nearest pixel of each, and where its plane lies along the new ray."""
    height, width = distance.shape
    if height <= rows:
        return distance, normal, candidates, classes
    row = ((np.arange(rows) + 0.5) * height / rows).astype(int)[:, None]
    column = ((np.arange(2 * rows) + 0.5) * width / (2 * rows)).astype(int)[None, :]
    sampled = distance[row, column]
    candidates = None if candidates is None else candidates[row, column]
    classes = None if classes is None else classes[row, column]
    if normal is None:
        return sampled, None, candidates, classes
    normal = normal[row, column]
    before, after = sphere.rays_at((column + 0.5) / width, (row + 0.5) / height), sphere.directions(rows, 2 * rows)
    cosine, cosine_after = grid.dot(before, normal), grid.dot(after, normal)
    facing = np.minimum(np.abs(cosine), np.abs(cosine_after)) > _MIN_COSINE
    ratio = np.where(facing, cosine / np.where(facing, cosine_after, 1), 1)
    return sampled * np.clip(ratio, 0.9, 1.1), normal, candidates, classes
