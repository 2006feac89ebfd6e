"""Scenes whose floor is tilted, whose walls stand askew, or whose true distances are known; the room is exact."""

from __future__ import annotations

import dataclasses

import analytic_room as room
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from panoform.backend.scene import build, floor, placement, planes
from panoform.shared.imaging import sphere
from panoform.shared.imaging.true_scale import true_scale
from panoform.shared.jobs.scene import SceneSettings

HEIGHT = 128
NOTHING = SceneSettings(level_floor=False)


def turn(tilt_deg: float, yaw_deg: float = 0.0, direction_deg: float = 40.0) -> np.ndarray:
    """Return a rotation: a yaw, then a tilt about a horizontal axis."""
    axis = np.array([np.cos(np.radians(direction_deg)), np.sin(np.radians(direction_deg)), 0])
    return (Rotation.from_rotvec(np.radians(tilt_deg) * axis) * Rotation.from_euler("z", yaw_deg, True)).as_matrix()


def placed(hit: room.Hit, settings: SceneSettings, world: np.ndarray | None = None) -> placement.Place:
    world = np.eye(3) if world is None else world
    built = build.build(hit.distance, hit.normal, world_from_panorama=world, max_triangles=5000)
    return placement.place(built.planes, built.floor, world, settings)


def angle_deg(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(one @ other.T).magnitude()))


@pytest.mark.slow
@pytest.mark.parametrize("tilt", [0.5, 15.0])
@pytest.mark.parametrize("soft", [False, True])
def test_tilted_floor_is_levelled(tilt: float, soft: bool) -> None:
    exact = room.turned(HEIGHT, turn(tilt, 20))
    place = placed(room.soften(exact) if soft else exact, SceneSettings())
    up = place.world_from_panorama @ turn(tilt, 20) @ (0, 0, 1)
    assert np.degrees(np.arccos(min(up[2], 1))) < (0.1 if soft else 0.01)
    assert place.height == pytest.approx(-room.LOW[2], rel=0.005)
    assert place.notices == (f"The floor was tilted by {tilt:.1f}°.",)
    # The smallest turn: about a horizontal axis.
    assert abs(Rotation.from_matrix(place.world_from_panorama).as_rotvec()[2]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("tilt", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_level_floor_stays(tilt: float, soft: bool) -> None:
    exact = room.turned(HEIGHT, turn(tilt, 20))
    place = placed(room.soften(exact) if soft else exact, SceneSettings())
    assert (place.world_from_panorama == np.eye(3)).all()
    assert place.notices == ()


@pytest.mark.parametrize("tilt", [0.0, 8.0])
@pytest.mark.parametrize("soft", [False, True])
def test_floor_of_maps(tilt: float, soft: bool) -> None:
    """As Perceive finds it: at most 256 rows, the sky in the window finite."""
    exact = room.turned(HEIGHT, turn(tilt, 20))
    hit = room.soften(exact) if soft else exact
    distance = np.where(np.isfinite(hit.distance), hit.distance, 30).astype(np.float32)
    found = floor.of_maps(distance[..., None], hit.normal)
    assert found is not None
    assert found.height == pytest.approx(-room.LOW[2], rel=0.005)
    up = turn(tilt, 20).T @ found.normal
    assert np.degrees(np.arccos(min(up[2], 1))) < 0.2


@pytest.mark.parametrize(
    ("upper", "edge", "lower", "height"),
    [
        (1.6, 4.5, 10.0, 1.6),  # a terrace over the sea
        (0.6, 0.9, 1.6, 1.6),  # a table
    ],
)
def test_floor_is_what_one_stands_on(upper: float, edge: float, lower: float, height: float) -> None:
    """A round surface `upper` below the camera, with its edge at a distance of `edge`, over a wide one at `lower`."""
    rays = sphere.directions(HEIGHT, 2 * HEIGHT)
    down = np.maximum(-rays[..., 2], 1e-3)
    on_it = np.linalg.norm(rays[..., :2], axis=-1) / down * upper < edge
    distance = np.where(on_it, upper, lower) / down
    fitted = planes.fit(distance, np.broadcast_to(np.array([0, 0, 1], np.float32), rays.shape))
    found = floor.find(dataclasses.replace(fitted, solid=rays[..., 2] < -0.02), np.array([0.0, 0.0, 1.0]))
    assert found is not None
    assert found.height == pytest.approx(height, rel=1e-3)


def test_a_map_of_a_ceiling_has_no_floor() -> None:
    rays = sphere.directions(64, 128)
    distance = np.where(rays[..., 2] > 0.05, 2 / np.maximum(rays[..., 2], 0.05), 40).astype(np.float32)
    assert floor.of_maps(distance[..., None], None) is None


@pytest.mark.slow
def test_normals_of_which_none_is_near_their_mean_show_no_floor() -> None:
    """All below are tilted by 14°, to the left or to the right: as some are in the maps of noise."""
    found = planes.fit(np.ones((32, 64)), -sphere.directions(32, 64).astype(np.float32))
    side = np.radians(14) * np.where(np.arange(64) % 2, 1, -1)
    normal = np.broadcast_to(np.stack([0 * side, np.sin(side), np.cos(side)], axis=-1), (32, 64, 3))
    assert floor.find(dataclasses.replace(found, normal=normal), np.array([0.0, 0.0, 1.0])) is None


def test_floor_is_left_tilted_where_that_is_wanted() -> None:
    place = placed(room.turned(HEIGHT, turn(10)), NOTHING)
    assert (place.world_from_panorama == np.eye(3)).all()
    assert place.height == pytest.approx(-room.LOW[2] / np.cos(np.radians(10)), rel=1e-3)


@pytest.mark.slow
def test_world_that_the_user_has_turned_is_level() -> None:
    """The panorama is tilted by 25°, and the world's mapping turned back: nothing more is to do."""
    world = turn(25, 20).T
    place = placed(room.turned(HEIGHT, turn(25, 20)), SceneSettings(), world)
    assert angle_deg(place.world_from_panorama, world) < 1e-6
    assert place.height == pytest.approx(-room.LOW[2], rel=1e-3)


@pytest.mark.slow
def test_ramp_between_upright_walls_is_no_tilted_panorama() -> None:
    """A floor that rises by 6° towards +X, between the walls of the room."""
    rays = sphere.directions(HEIGHT, 2 * HEIGHT).astype(np.float64)
    hit = room.maps(HEIGHT, furnished=False)
    normal = np.array([-np.sin(np.radians(6)), 0, np.cos(np.radians(6))])
    ramp = 1.4 * normal[2] / np.maximum(-rays @ normal, 1e-9)
    lower = ramp < hit.distance
    sloping = room.Hit(np.where(lower, ramp, hit.distance), np.where(lower[..., None], normal, hit.normal))
    assert (placed(sloping, SceneSettings()).world_from_panorama == np.eye(3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("yaw", [-44.0, 7.5])
@pytest.mark.parametrize("soft", [False, True])
def test_walls_are_aligned(yaw: float, soft: bool) -> None:
    exact = room.turned(HEIGHT, turn(0, yaw))
    place = placed(room.soften(exact) if soft else exact, SceneSettings(align_walls=True))
    assert angle_deg(place.world_from_panorama @ turn(0, yaw), np.eye(3)) < 0.3
    assert place.notices == ()


def test_walls_of_a_tilted_room_in_a_turned_world() -> None:
    world = turn(0, 33)
    place = placed(room.turned(HEIGHT, turn(5, 20)), SceneSettings(align_walls=True), world)
    aligned = place.world_from_panorama @ turn(5, 20)
    # 20° and 33° are most of a right angle: the smallest turn goes on to it.
    assert angle_deg(aligned, turn(0, 90)) < 0.3


def test_round_room_has_no_main_direction() -> None:
    rays = sphere.directions(HEIGHT, 2 * HEIGHT).astype(np.float64)
    flat = np.linalg.norm(rays[..., :2], axis=-1)
    wall, floor = 3 / flat, 1.6 / np.abs(rays[..., 2])
    normal = np.where((wall < floor)[..., None], -rays * (1, 1, 0) / flat[..., None], -np.sign(rays) * (0, 0, 1))
    place = placed(room.Hit(np.minimum(wall, floor), normal), SceneSettings(align_walls=True))
    assert place.notices == (placement.NO_WALLS,)
    assert (place.world_from_panorama == np.eye(3)).all()


@pytest.mark.slow
def test_true_distances_give_the_scale() -> None:
    """Of maps in another unit; a third of the known distances are of objects that the maps don't show."""
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(300, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    known = room.cast(np.zeros(3), rays).distance
    known[:100] *= rng.uniform(0.2, 0.8, 100)
    rows = np.column_stack([rays, known])[np.isfinite(known)].astype(np.float32)
    exact = room.maps(HEIGHT)
    built = build.build(exact.distance / 0.37, exact.normal, known_distances=rows, max_triangles=5000)
    assert built.scale == pytest.approx(0.37, rel=0.01)
    assert not built.is_guess
    assert true_scale(exact.distance, rows[:10]) is None
