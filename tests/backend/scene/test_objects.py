"""Things of a room known exactly: found, closed, and the room behind them filled."""

from __future__ import annotations

from collections.abc import Iterator

import analytic_room as room
import bpy  # noqa: F401  # contains mathutils
import numpy as np
import pytest
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from panoform.backend.perception.palette import PALETTE
from panoform.backend.scene import behind, build, layers, objects, planes
from panoform.backend.scene.build import Built
from panoform.backend.scene.solids import Solid, base
from panoform.shared.imaging import sphere

HEIGHT = 256
CLASSES = list(PALETTE)
VOLUMES = {"cabinet": float(np.prod(room.CUBOID[1] - room.CUBOID[0])), "lamp": 4 / 3 * np.pi * room.RADIUS**3}


def truth(height: int = HEIGHT) -> np.ndarray:
    """Return the classes of the room's pixels: the cuboid is a cabinet, the ball a lamp."""
    rays = sphere.directions(height, 2 * height)
    exact, empty = room.maps(height), room.maps(height, furnished=False)
    point = rays * np.where(np.isfinite(exact.distance), exact.distance, 0)[..., None]
    ball = np.abs(np.linalg.norm(point - room.BALL, axis=-1) - room.RADIUS) < 1e-6
    thing = exact.distance < empty.distance
    wall, floor, cabinet, lamp = (CLASSES.index(name) for name in ("wall", "floor", "cabinet", "lamp"))
    label = np.where(ball, lamp, np.where(thing, cabinet, np.where(exact.normal[..., 2] > 0.9, floor, wall)))
    return np.where(np.isinf(exact.distance), CLASSES.index("unlabelled"), label)


@pytest.fixture(scope="module")
def built() -> Built:
    exact = room.maps(HEIGHT)
    return build.build(exact.distance, exact.normal, scale=1.0, classes=truth())


def triangles(built: Built) -> Iterator[tuple[Solid, np.ndarray]]:
    """Yield each thing with its triangles, those of the front first."""
    front = built.surface.counts[0] - sum(solid.front for solid in built.things)
    back = sum(built.surface.counts)
    for solid in built.things:
        both = built.surface.triangles[front : front + solid.front], built.surface.triangles[back : back + solid.back]
        front, back = front + solid.front, back + solid.back
        yield solid, np.concatenate(both)


def rest(built: Built) -> np.ndarray:
    """Return the triangles that belong to no thing."""
    first, end = built.surface.counts[0], sum(built.surface.counts)
    start = first - sum(solid.front for solid in built.things)
    return np.concatenate([built.surface.triangles[:start], built.surface.triangles[first:end]])


def volume(positions: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (positions[faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


@pytest.mark.slow
def test_things_are_closed_and_their_size_is_plausible(built: Built) -> None:
    assert {solid.name for solid in built.things} == VOLUMES.keys()
    assert len(built.surface.triangles) == sum(built.surface.counts) + sum(solid.back for solid in built.things)
    assert len(np.unique(np.sort(built.surface.triangles, axis=1), axis=0)) == len(built.surface.triangles)
    for solid, faces in triangles(built):
        edges = np.sort(faces[:, [(0, 1), (1, 2), (2, 0)]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
        assert set(np.unique(faces)) == set(solid.vertices)
        # The back is a guess. A volume over 0: normals point outwards.
        assert 0.5 < volume(built.surface.positions, faces) / VOLUMES[solid.name] < 1.4


@pytest.mark.slow
def test_bases_stand_on_the_floor(built: Built) -> None:
    origin = {solid.name: base(built.surface.positions[solid.vertices], np.eye(3)) for solid in built.things}
    cuboid = np.mean(room.CUBOID, axis=0)
    np.testing.assert_allclose(origin["cabinet"][:2], cuboid[:2], atol=0.25)
    assert origin["cabinet"][2] == pytest.approx(room.LOW[2], abs=0.05)
    np.testing.assert_allclose(origin["lamp"][:2], room.BALL[:2], atol=0.1)
    # In a panorama that lies on its side, below is elsewhere.
    side = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    points = np.array([[-1, -2, -3], [1, 2, 3]])
    np.testing.assert_allclose(base(points, side), [1, 0, 0])


@pytest.mark.slow
def test_room_without_its_things_has_no_holes(built: Built) -> None:
    rays = sphere.directions(HEIGHT, 2 * HEIGHT)[::3, ::3].reshape(-1, 3)
    exact, empty = (room.cast(np.zeros(3), rays, furnished=furnished) for furnished in (True, False))
    hidden = exact.distance < empty.distance
    tree = BVHTree.FromPolygons(built.surface.positions.tolist(), rest(built).tolist())
    assert tree is not None
    found = [tree.ray_cast(Vector(), Vector(ray))[3] for ray in rays[hidden].tolist()]
    assert None not in found
    error = np.abs(np.array(found) / empty.distance[hidden] - 1)
    assert np.quantile(error, 0.95) < 0.02
    # Together with the things, it is what the panorama shows.
    everything = BVHTree.FromPolygons(built.surface.positions.tolist(), built.surface.triangles.tolist())
    assert everything is not None
    found = [everything.ray_cast(Vector(), Vector(ray))[3] for ray in rays[hidden].tolist()]
    assert np.quantile(np.abs(np.array(found) / exact.distance[hidden] - 1), 0.97) < 0.01


@pytest.mark.slow
def test_texture_of_what_is_hidden_is_that_of_what_surrounds_it() -> None:
    exact, label = room.maps(HEIGHT), truth()
    thing = np.isin(label, [CLASSES.index(name) for name in VOLUMES])
    found = planes.fit(np.where(np.isfinite(exact.distance), exact.distance, 10), exact.normal)
    filled = behind.fill(layers.visible(found), thing.astype(np.int32), found.rays, planes.TOLERANCE)
    normal = exact.normal.reshape(-1, 3)[filled.source]
    empty = room.maps(HEIGHT, furnished=False).normal
    assert filled.solid[thing].all()
    assert not thing.ravel()[filled.source[filled.solid]].any()
    assert ((normal * empty).sum(-1)[thing] > 0.9).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("shift", [(0, 0), (1, 1), (-1, 0), (2, -2)])
def test_outlines_of_a_shifted_map_go_to_the_edges(shift: tuple[int, int]) -> None:
    exact, label = room.maps(HEIGHT), truth()
    visible = layers.visible(planes.fit(np.where(np.isfinite(exact.distance), exact.distance, 10), exact.normal))
    links = layers.link(visible, visible, sphere.directions(HEIGHT, 2 * HEIGHT), planes.TOLERANCE)
    things = objects.find(np.roll(label, shift, axis=(0, 1)), visible, links)
    assert set(things.names) == VOLUMES.keys()
    for number, name in enumerate(things.names, 1):
        mask, true = things.label == number, label == CLASSES.index(name)
        assert (mask & true).sum() / (mask | true).sum() > 0.97


@pytest.mark.parametrize(("distances", "names"), [((2.0, 1.2), 2), ((2.0, 1.85), 1)])
def test_things_of_a_class_are_told_apart_by_the_step_between_them(distances: tuple[float, float], names: int) -> None:
    distance = np.full((128, 256), 4.0)
    label = np.full(distance.shape, CLASSES.index("wall"))
    for left, reach in zip((100, 115), distances, strict=True):
        block = slice(60, 75), slice(left, left + 15)
        distance[block], label[block] = reach, CLASSES.index("chair")
    label[20:22, 20:22] = CLASSES.index("lamp")  # a speck
    visible = layers.visible(planes.fit(distance, None))
    links = layers.link(visible, visible, sphere.directions(128, 256), planes.TOLERANCE)
    assert objects.find(label, visible, links).names == ("chair", "chair 2")[:names]


def test_without_things_the_mesh_is_the_plain_one() -> None:
    exact = room.maps(64, furnished=False)
    plain = build.build(exact.distance, exact.normal)
    same = build.build(exact.distance, exact.normal, classes=np.full((64, 128), CLASSES.index("wall")))
    assert same.things == ()
    assert (same.surface.positions == plain.surface.positions).all()
    assert (same.surface.triangles == plain.surface.triangles).all()


@pytest.mark.slow
def test_everything_is_a_thing() -> None:
    """A panorama from inside a box."""
    exact = room.maps(64, furnished=False, window=False)
    built = build.build(exact.distance, exact.normal, classes=np.full((64, 128), CLASSES.index("box")))
    assert [solid.name for solid in built.things] == ["box"]
    assert np.isfinite(built.surface.positions).all()
