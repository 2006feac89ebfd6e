"""Augmentation of scenes, and encoding to pictures as the inverse of backend/perception/decode.py."""

import numpy as np
import pytest
import torch
from scene_files import write_scene

from panoform.backend.lighting import exposure
from panoform.backend.perception import decode
from panoform.backend.training import dataset
from panoform.shared.imaging import sphere
from panoform.shared.protocol.errors import InputError

HEIGHT = 32


def box_room(
    turn_rad: float = 0.0, mirror: bool = False, stretch=(1.0, 1.0, 1.0), height: int = HEIGHT
) -> dict[str, torch.Tensor]:
    """Return the maps of an asymmetric box room rotated about the vertical, computed by ray–plane intersection."""
    rays = sphere.directions(height, 2 * height).astype(np.float64)
    if mirror:
        rays[..., 1] *= -1
    local = rays @ sphere.yaw_matrix(-turn_rad).astype(np.float64).T
    along, up, down = stretch
    sides = np.array([[3.0 * along, 2.0, 1.5 * up], [1.0 * along, 4.0, 1.2 * down]])  # towards +, towards −
    with np.errstate(divide="ignore"):
        reach = np.where(local > 0, sides[0], sides[1]) / np.abs(local)
    axis = reach.argmin(-1)
    normal = -np.take_along_axis(np.sign(local), axis[..., None], -1) * np.eye(3)[axis]
    normal = normal @ sphere.yaw_matrix(turn_rad).astype(np.float64).T
    if mirror:
        normal[..., 1] *= -1
    distance = reach.min(-1)[..., None]
    plain = np.full((height, 2 * height, 3), 0.5)
    arrays = {"rgb": distance * plain, "distance": distance, "normal": normal, "albedo": plain, "pbr": plain}
    arrays["semantic"] = plain
    return {name: torch.from_numpy(a).float().permute(2, 0, 1)[None] for name, a in arrays.items()}


@pytest.mark.parametrize("columns", [1, 9, 40])
def test_turn_equals_a_rotated_room(columns):
    turned = dataset.turn(box_room(0.3), columns, mirror=False)
    expected = box_room(0.3 - 2 * np.pi * columns / (2 * HEIGHT))
    # Pixels on an edge of the room may differ by rounding.
    same = (turned["normal"] - expected["normal"]).abs().amax(1) < 1e-4
    assert same.float().mean() > 0.995
    torch.testing.assert_close(turned["distance"], expected["distance"], atol=1e-4, rtol=1e-4)


def test_mirror_equals_a_mirrored_room():
    mirrored = dataset.turn(box_room(0.3), 0, mirror=True)
    expected = box_room(0.3, mirror=True)
    torch.testing.assert_close(mirrored["normal"], expected["normal"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mirrored["distance"], expected["distance"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1.5, 1, 1), (0.6, 1, 1), (1, 1.4, 0.8), (1.7, 0.7, 1.3)])
def test_stretch_equals_a_stretched_room(factors):
    # The wall direction is ambiguous by quarter turns; the stretched one is within 45° of +X.
    stretched = dataset.stretch(box_room(0.3), *(torch.tensor([float(f)]) for f in factors))
    expected = box_room(0.3, stretch=factors)
    inside = (stretched["normal"] - expected["normal"]).abs().amax(1) < 1e-3
    assert inside.float().mean() > 0.9  # the rest is at edges
    ratio = (stretched["distance"] / expected["distance"])[:, 0]
    # Nearest-neighbour distances have large steps at grazing angles of the floor.
    assert (ratio[inside].log().abs() < 0.05).float().mean() > 0.98
    assert ratio[inside].log().abs().mean() < 0.01


def test_enlarge_equals_the_room_at_a_larger_size():
    enlarged, expected = dataset.enlarge(box_room(0.3), 4 * HEIGHT), box_room(0.3, height=4 * HEIGHT)
    inside = (enlarged["normal"] - expected["normal"]).abs().amax(1) < 1e-3
    assert inside.float().mean() > 0.9  # the rest is at edges
    ratio = (enlarged["distance"] / expected["distance"])[:, 0][inside]
    assert ratio.log().abs().mean() < 0.01
    torch.testing.assert_close(dataset.enlarge(expected, 4 * HEIGHT), expected, atol=1e-4, rtol=1e-3)


def test_scenes_of_divisors_of_the_height_are_found(tmp_path):
    for height, scenes in ((32, 2), (48, 1), (64, 1), (128, 1)):
        for index in range(scenes):
            write_scene(tmp_path / str(height) / "train" / f"{index:06d}", index, height)
    found = dataset.find_scenes(tmp_path, "train", 64, torch.device("cpu"))
    assert [(scenes.height, len(scenes)) for scenes in found] == [(32, 2), (64, 1)]
    with pytest.raises(InputError, match=r"no scenes in .*16.train"):
        dataset.find_scenes(tmp_path, "train", 16, torch.device("cpu"))


def test_stretch_keeps_the_sky():
    room = box_room()
    rays = torch.from_numpy(sphere.directions(HEIGHT, 2 * HEIGHT)).permute(2, 0, 1)[None]
    room["distance"][:, :, : HEIGHT // 4] = 60000
    stretched = dataset.stretch(room, *(torch.tensor([f]) for f in (1.5, 0.8, 1.0)))
    sky = (stretched["distance"] >= 60000).expand(-1, 3, -1, -1)
    assert stretched["distance"].max() == 60000
    assert 0.1 < sky.float().mean() < 0.4
    torch.testing.assert_close(stretched["normal"][sky], -rays[sky])


def test_pictures_decode_to_the_original_maps():
    room = box_room(0.3)
    encoded = {name: p[0].permute(1, 2, 0).numpy() for name, p in dataset.pictures(room).items()}
    options = decode.Decode(decode.DistanceDecode("log", dataset.DISTANCE_RATIO), decode.NormalDecode("column"))
    distance = decode.decode("depth", encoded["depth"], options)["distance"] * dataset.FAR_M
    np.testing.assert_allclose(distance, room["distance"][0].permute(1, 2, 0).numpy(), rtol=1e-4)
    normal = decode.decode("normal", encoded["normal"], options)["normal"]
    np.testing.assert_allclose(normal, room["normal"][0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_display_equals_the_backends_exposure():
    light = np.random.default_rng(0).lognormal(0, 2, (16, 32, 3)).astype(np.float32)
    picture, record = exposure.expose(light, "linear")
    assert record is not None
    shown = dataset.display(torch.from_numpy(light * record["exposure"]).permute(2, 0, 1)[None])
    np.testing.assert_allclose(shown[0].permute(1, 2, 0).numpy(), picture, atol=1e-4)


def test_augment_keeps_unit_normals_and_the_range_of_pictures():
    out = dataset.augment(box_room(0.3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(out["normal"].norm(dim=1), torch.ones(1, HEIGHT, 2 * HEIGHT))
    assert 0 <= out["rgb"].min() < out["rgb"].max() <= 1


@pytest.mark.slow
def test_augment_permutes_light_and_albedo_alike():
    room = box_room()
    room["albedo"] = room["albedo"] * torch.tensor([0.2, 0.8, 1.8])[:, None, None]
    room["rgb"] = 0.5 * room["albedo"]
    orders = set()
    for seed in range(40):
        augmented = dataset.augment(room, torch.Generator().manual_seed(seed))
        order = augmented["albedo"].mean((0, 2, 3)).argsort().tolist()
        assert augmented["rgb"].mean((0, 2, 3)).argsort().tolist() == order
        orders.add(tuple(order))
    assert len(orders) > 3


@pytest.mark.parametrize("columns", [1, 9, 40])
def test_pictures_rotate_with_the_panorama(columns):
    """No picture depends on world directions, not even that of normals, so latents may be rotated instead."""
    encoded = dataset.pictures(box_room(0.3))
    for name, picture in dataset.pictures(dataset.turn(box_room(0.3), columns, mirror=False)).items():
        torch.testing.assert_close(picture, encoded[name].roll(columns, -1), atol=1e-5, rtol=1e-5)


def test_masked_shows_a_perspective_view():
    generator, picture = torch.Generator().manual_seed(0), torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    widths = []
    for _ in range(8):
        visible = (dataset.masked(picture, generator) == picture).all(1)[0]
        assert not visible[:, : HEIGHT // 2].any()
        assert not visible[:, 3 * HEIGHT // 2 :].any()
        widths.append(int(visible[HEIGHT // 2].sum()) * 360 / (2 * HEIGHT))
    assert 40 <= min(widths) < max(widths) <= 130
