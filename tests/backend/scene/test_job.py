"""The job `scene` on files as users have them: formats, sizes, missing maps, and what is refused."""

from __future__ import annotations

import analytic_room as room
import numpy as np
import pytest
from decoding import decoded
from scipy.spatial.transform import Rotation

from panoform.backend.io.encoding import encode_image
from panoform.backend.io.panoramas import resize
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception.palette import PALETTE
from panoform.backend.scene import job
from panoform.shared.imaging import sphere
from panoform.shared.jobs.scene import SceneReply, SceneRequest, SceneSettings
from panoform.shared.protocol import wire
from panoform.shared.protocol.errors import Cancelled, InputError, PanoformError, PanoramaError, SettingError

HEIGHT = 64
EXACT = room.maps(HEIGHT)


def file(filename: str, pixels: np.ndarray, colorspace: str = "Non-Color") -> np.ndarray:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.frombuffer(encode_image(filename, pixels, colorspace), np.uint8)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Round to what 8 bits hold."""
    return (np.round(values * 255) / 255).astype(np.float32)


def panorama(height: int, lamp: float = 0.0) -> np.ndarray:
    """Return a picture with stripes of a column each, and a lamp in the ceiling, (height, 2·height, 3)."""
    pixels = np.full((height, 2 * height, 3), 0.2, np.float32)
    pixels[:, ::2] = 0.25
    if lamp:
        pixels[height // 16 : height // 8, : height // 4] = lamp
    return pixels


DISTANCE = {"distance.exr": file("distance.exr", EXACT.distance.astype(np.float32))}
NORMAL = {"normal.exr": file("normal.exr", EXACT.normal.astype(np.float32))}
FLAT = np.ones((HEIGHT, 2 * HEIGHT), np.float32)


def run(files: dict[str, np.ndarray], reporter, settings: SceneSettings | None = None, **fields) -> SceneReply:
    request = SceneRequest(files=files, settings=settings or SceneSettings(), **fields)
    return job.run(request, ModelCache(), reporter)


def test_reply_travels(reporter) -> None:
    reply = run(DISTANCE | NORMAL, reporter)
    frames = wire.encode(reply)
    received = wire.decode_answer(frames)
    assert isinstance(received, SceneReply)
    assert (received.positions == reply.positions).all()
    assert sum(part.triangles for part in received.parts) == len(received.triangles)
    assert received.info == reply.info
    assert received.info.scale == pytest.approx(1, rel=0.02)
    assert received.info.sky == pytest.approx(np.isinf(EXACT.distance).mean())
    assert [stage for stage, *_ in reporter.reported] == ["Building the mesh", "Building the mesh", "Textures"]
    assert reporter.reported[-1][3] == 1


@pytest.mark.parametrize("height", [HEIGHT // 2, HEIGHT, 2 * HEIGHT])
def test_without_an_albedo_the_panorama_and_its_light_tell_it(reporter, height: int) -> None:
    picture = panorama(height)
    reply = run(DISTANCE | NORMAL, reporter, SceneSettings(match_panorama=True), panorama=picture, encoding="linear")
    shown = decoded(reply.parts[0].textures["albedo"].data)
    assert shown.shape == (max(height, HEIGHT), 2 * max(height, HEIGHT), 3)
    assert job.NO_ALBEDO not in reply.info.notices


@pytest.mark.slow
def test_files_of_many_formats(reporter) -> None:
    """Normals of 8 bits, an albedo as JPEG, roughness as TIFF, distances as PNG: each of another size."""
    near = room.maps(128, window=False)
    solid = np.isfinite(EXACT.distance)[..., None]
    files = {
        "Normal.png": file("Normal.png", eight_bit(EXACT.normal * 0.5 + 0.5)),
        "albedo.jpg": file("albedo.jpg", np.full((100, 200, 3), (0.8, 0.4, 0.2), np.float32), "sRGB"),
        "roughness.tif": file("roughness.tif", np.full((16, 32), 0.3, np.float32)),
        "metallic.exr": file("metallic.exr", np.full((HEIGHT, 2 * HEIGHT), 0.6, np.float32)),
        "distance.png": file("distance.png", (near.distance / 8).astype(np.float32)),
        "notes.txt": np.zeros(3, np.uint8),
    }
    reply = run(files, reporter)
    textures = {name: decoded(texture.data) for name, texture in reply.parts[0].textures.items()}
    assert {name: len(pixels) for name, pixels in textures.items()} == {
        "albedo": 100, "roughness": 16, "metallic": HEIGHT, "normal": HEIGHT, "confidence": HEIGHT,
    }  # fmt: skip
    np.testing.assert_allclose(textures["albedo"][50, 100], (0.8, 0.4, 0.2), atol=0.02)
    np.testing.assert_allclose(textures["roughness"], 0.3, atol=0.51 / 255)
    np.testing.assert_allclose(textures["metallic"], 0.6, atol=0.51 / 255)
    # There is no normal in the window, where these distances show a wall.
    assert textures["confidence"][np.isinf(EXACT.distance)].mean() < 0.1 < 0.9 < textures["confidence"].mean()
    np.testing.assert_allclose(textures["normal"], np.where(solid, EXACT.normal, 0), atol=0.02)
    assert reply.info.notices == ()
    assert reply.parts[0].textures["albedo"].filename == "albedo.png"
    assert reply.info.scale == pytest.approx(8, rel=0.01)


@pytest.mark.slow
def test_infinite_and_huge_distances_are_sky(reporter) -> None:
    huge = np.where(np.isinf(EXACT.distance), 1e10, EXACT.distance).astype(np.float32)
    first, second = run(DISTANCE, reporter), run({"distance.exr": file("distance.exr", huge)}, reporter)
    assert first.info.sky == second.info.sky > 0
    assert (first.positions == second.positions).all()
    far = np.linalg.norm(first.positions, axis=1).max()
    assert far < np.linalg.norm(room.HIGH - room.LOW)


def test_objects_need_a_semantic_map(reporter) -> None:
    with pytest.raises(InputError, match="no semantic map"):
        run(DISTANCE, reporter, SceneSettings(objects=True))


@pytest.mark.slow
def test_things_travel_with_their_triangles(reporter) -> None:
    """The cuboid is a chair."""
    chair = EXACT.distance < room.maps(HEIGHT, furnished=False).distance
    chair &= sphere.directions(HEIGHT, 2 * HEIGHT)[..., 1] < 0
    colours = np.where(chair[..., None], PALETTE["chair"], PALETTE["wall"]).astype(np.float32) / 255
    files = DISTANCE | NORMAL | {"semantic.png": file("semantic.png", colours, "sRGB")}
    reply = run(files, reporter, SceneSettings(objects=True, scale=2.0))
    (thing,) = reply.things
    assert thing.name == "chair"
    assert [part.name for part in reply.parts][-1] == "back"
    of_thing, part = reply.thing_of_triangles(), reply.part_of_triangles()
    own = of_thing == 0
    assert own.sum() == thing.visible + thing.back
    assert set(part[own]) == {0, len(reply.parts) - 1}
    points = reply.positions[np.unique(reply.triangles[own])]
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(thing.origin, (*(low + high)[:2] / 2, low[2]), atol=1e-3)
    np.testing.assert_allclose(low[2], 2 * room.LOW[2], atol=0.2)
    assert wire.decode_answer(wire.encode(reply)).things == reply.things
    plain = run(files, reporter)
    assert plain.things == ()
    assert (plain.thing_of_triangles() == -1).all()


def test_an_empty_normal_map_is_none(reporter) -> None:
    empty = run(DISTANCE | {"normal.exr": file("normal.exr", np.zeros_like(EXACT.normal, np.float32))}, reporter)
    without = run(DISTANCE, reporter)
    np.testing.assert_array_equal(empty.positions, without.positions)
    assert job.NO_NORMALS in empty.info.notices
    assert set(empty.info.notices) - {job.NO_NORMALS} == set(without.info.notices)
    assert empty.info.normal_confidence is None


def test_where_a_normal_map_is_empty_is_told(reporter) -> None:
    normal = EXACT.normal.astype(np.float32).copy()
    normal[:, :HEIGHT] = 0
    notices = run(DISTANCE | {"normal.exr": file("normal.exr", normal)}, reporter).info.notices
    (told,) = [notice for notice in notices if "have no normal" in notice]
    assert 40 <= int(told.split("%")[0]) <= 60


def test_missing_maps_are_named(reporter) -> None:
    notices = run(DISTANCE, reporter).info.notices
    assert notices[-1] == "There is no map of albedo and roughness and metallic and normal."


def test_panorama_serves_as_albedo_where_there_is_none(reporter) -> None:
    picture = panorama(128)
    files = DISTANCE | NORMAL | {"panorama.png": file("panorama.png", picture, "sRGB")}
    reply = run(files, reporter)
    assert job.NO_ALBEDO in reply.info.notices
    np.testing.assert_allclose(decoded(reply.parts[0].textures["albedo"].data), picture, atol=0.51 / 255)
    hidden = [part for part in reply.parts if part.name == "hidden"]
    assert hidden
    for part in hidden:
        assert decoded(part.textures["albedo"].data).shape == (HEIGHT, 2 * HEIGHT, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "of_panorama", "width", "expected"),
    [(64, 256, 8192, 256), (64, 256, 256, 128), (256, 64, 8192, 256), (256, 64, 128, 64), (256, None, 128, 64)],
)
def test_textures_are_as_large_as_panorama_or_maps_up_to_the_limit(reporter, own, of_panorama, width, expected) -> None:
    albedo = np.full((own, 2 * own, 3), 0.5, np.float32)
    files = DISTANCE | {"albedo.png": file("albedo.png", albedo, "sRGB")}
    picture = None if of_panorama is None else panorama(of_panorama)
    reply = run(files, reporter, SceneSettings(texture_width=width), panorama=picture)
    assert decoded(reply.parts[0].textures["albedo"].data).shape == (expected, 2 * expected, 3)


@pytest.mark.slow
def test_textures_show_detail_of_the_panorama(reporter) -> None:
    sharp = np.random.default_rng(0).uniform(0.2, 0.8, (22, 43, 3)).astype(np.float32)
    sharp = np.repeat(np.repeat(sharp, 12, 0), 12, 1)[:256, :512]
    blurred = resize(sharp, 64)
    files = DISTANCE | {"albedo.png": file("albedo.png", blurred, "sRGB")}
    texture = decoded(run(files, reporter, panorama=sharp).parts[0].textures["albedo"].data)
    assert np.abs(texture - sharp).mean() < 0.5 * np.abs(resize(blurred, 256) - sharp).mean()
    plain = decoded(run(files, reporter).parts[0].textures["albedo"].data)
    np.testing.assert_allclose(plain, blurred, atol=0.51 / 255)


@pytest.mark.slow
def test_emission_of_lamps(reporter) -> None:
    picture = panorama(HEIGHT, lamp=50)
    reply = run(DISTANCE, reporter, panorama=picture, encoding="linear")
    texture = reply.parts[0].textures["emission"]
    assert (texture.filename, texture.colorspace) == ("emission.exr", "Linear Rec.709")
    emission = decoded(texture.data)
    np.testing.assert_allclose(emission[picture[..., 0] == 50], 50, rtol=1e-5)
    assert not emission[picture[..., 0] < 1].any()
    assert all("emission" not in part.textures for part in reply.parts[1:])
    unlit = run(DISTANCE, reporter, panorama=panorama(HEIGHT), encoding="linear")
    assert all("emission" not in part.textures for part in unlit.parts)
    # The clipped lamp of an sRGB picture is reconstructed.
    clipped = run(DISTANCE, reporter, panorama=picture.clip(0, 1)).parts[0].textures["emission"]
    assert decoded(clipped.data)[picture[..., 0] == 50].mean() > 1.5


@pytest.mark.slow
def test_lamps_go_on_behind_things(reporter) -> None:
    """The half of a wall behind the cuboid shines, that behind the ball doesn't: so do the triangles behind them."""
    exact, rays = room.maps(HEIGHT, window=False), sphere.directions(HEIGHT, 2 * HEIGHT)
    picture = panorama(HEIGHT)
    wall = (exact.normal[..., 0] < -0.99) & (np.abs(exact.distance * rays[..., 0] - room.HIGH[0]) < 0.01)
    picture[wall & (rays[..., 1] < 0)] = 50
    files = {
        "distance.exr": file("distance.exr", exact.distance.astype(np.float32)),
        "normal.exr": file("normal.exr", exact.normal.astype(np.float32)),
        "albedo.png": file("albedo.png", np.full((HEIGHT, 2 * HEIGHT, 3), 0.5, np.float32), "sRGB"),
    }
    reply = run(files, reporter, panorama=picture, encoding="linear")
    ends = np.cumsum([part.triangles for part in reply.parts])
    number = {True: 0, False: 0}
    for part, end in zip(reply.parts, ends, strict=True):
        if part.name != "hidden":
            continue
        these = slice(end - part.triangles, end)
        x, y, z = reply.positions[reply.triangles[these]].mean(1).T
        within = (y > room.LOW[1] + 0.25) & (z > room.LOW[2] + 0.25)  # near corners, other surfaces go on
        on_wall = (np.abs(x / room.HIGH[0] - 1) < 0.01) & within & (np.abs(y) > 0.1)
        u, v = reply.uv[these][on_wall].mean(1).T
        pixel = ((1 - v) * HEIGHT).astype(int), (u * 2 * HEIGHT).astype(int) % (2 * HEIGHT)
        albedo = decoded(part.textures["albedo"].data)[pixel]
        light = decoded(part.textures["emission"].data)[pixel] if "emission" in part.textures else 0 * albedo
        shines = y[on_wall, None] < 0
        np.testing.assert_allclose(light, np.broadcast_to(50.0 * shines, light.shape), rtol=1e-4)
        np.testing.assert_allclose(albedo, np.broadcast_to(0.5 * ~shines, albedo.shape), atol=0.01)
        for lit in number:
            number[lit] += int((shines == lit).sum())
    assert min(number.values()) > 5


def test_bright_sky_is_no_lamp(reporter) -> None:
    picture = panorama(HEIGHT)
    picture[np.isinf(EXACT.distance)] = 100
    reply = run(DISTANCE, reporter, panorama=picture, encoding="linear")
    assert "emission" not in reply.parts[0].textures


@pytest.mark.slow
def test_semantic_map_of_another_size_is_not_mixed(reporter) -> None:
    soft = room.soften(room.maps(HEIGHT))
    from panoform.backend.perception.palette import PALETTE

    names = np.where(np.isinf(room.maps(2 * HEIGHT).distance), "window", "wall")
    colours = np.array([PALETTE["wall"], PALETTE["window"]], np.float32)[(names == "window").astype(int)] / 255
    files = {"distance.exr": file("distance.exr", soft.distance.astype(np.float32))}
    seen = run(files | {"semantic.png": file("semantic.png", colours, "sRGB")}, reporter)
    wall = np.broadcast_to(np.array(PALETTE["wall"], np.float32) / 255, colours.shape)
    walled = run(files | {"semantic.png": file("semantic.png", wall, "sRGB")}, reporter)
    assert seen.info.sky > 0
    assert walled.info.sky == 0


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_distances_that_are_refused(reporter, value) -> None:
    with pytest.raises(PanoramaError, match=r"distance\.exr contains distances that are negative, all zero or NaN"):
        run({"distance.exr": file("distance.exr", FLAT * value)}, reporter)


@pytest.mark.parametrize("value", [np.inf, 1e10])
def test_nothing_but_sky_is_refused(reporter, value) -> None:
    with pytest.raises(InputError, match="nothing but sky"):
        run({"distance.exr": file("distance.exr", FLAT * np.float32(value))}, reporter)


def test_maps_with_nan_are_refused_by_name(reporter) -> None:
    bad = np.full((HEIGHT, 2 * HEIGHT, 3), np.nan, np.float32)
    for name in ("normal.exr", "albedo.exr", "roughness.exr"):
        with pytest.raises(PanoramaError, match=f"{name} contains NaN"):
            run(DISTANCE | {name: file(name, bad)}, reporter)


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({"albedo.png": file("albedo.png", np.stack([FLAT] * 3, -1), "sRGB")}, InputError, "no distance map"),
        ({"holiday.jpg": np.zeros(9, np.uint8)}, InputError, "no map among the files"),
        ({"panorama.png": file("panorama.png", panorama(16), "sRGB")}, InputError, "no map among the files"),
        ({}, SettingError, "no map to build from"),
        ({"distance.exr": np.zeros(9, np.uint8)}, PanoramaError, r"distance\.exr can't be read"),
        ({"distance.exr": file("distance.exr", FLAT[:, :-1])}, PanoramaError, "127 × 64 px, not exactly 2:1"),
        ({"distance.exr": file("distance.exr", FLAT[:, :64])}, PanoramaError, "64 × 64, not 2:1"),
        ({"distance.exr": file("distance.exr", FLAT[:8, :16])}, PanoramaError, "16 × 8 px"),
        (DISTANCE | {"distance.png": np.zeros(9, np.uint8)}, None, ""),
        ({"distance.tif": DISTANCE["distance.exr"], "distance.png": DISTANCE["distance.exr"]}, InputError, "Keep one"),
        ({"../distance.exr": DISTANCE["distance.exr"]}, None, ""),
    ],
)  # fmt: skip
def test_files_that_are_refused(reporter, files, error, words) -> None:
    if error is None:
        run(files, reporter)
        return
    with pytest.raises(error, match=words) as raised:
        run(files, reporter)
    assert "/tmp" not in str(raised.value)


@pytest.mark.slow
def test_map_slightly_off_two_to_one_is_resampled(reporter) -> None:
    albedo = np.full((100, 199, 3), 0.5, np.float32)
    reply = run(DISTANCE | {"albedo.png": file("albedo.png", albedo, "sRGB")}, reporter, panorama=panorama(128))
    assert decoded(reply.parts[0].textures["albedo"].data).shape == (128, 256, 3)


def test_directions_of_grey_and_black_normals_are_not_made_up(reporter) -> None:
    normal = eight_bit(EXACT.normal * 0.5 + 0.5)
    normal[:8] = 0  # black: (−1, −1, −1)
    texture = run(DISTANCE | {"normal.png": file("normal.png", normal)}, reporter).parts[0].textures["normal"]
    stored = decoded(texture.data)
    assert not stored[:8].any()
    assert not stored[np.isinf(EXACT.distance)].any()
    solid = np.isfinite(EXACT.distance)
    solid[:8] = False
    np.testing.assert_allclose(np.linalg.norm(stored[solid], axis=-1), 1, atol=1e-3)  # half floats
    assert ((stored * sphere.directions(HEIGHT, 2 * HEIGHT)).sum(-1)[solid] < 0.02).all()


def test_cancelled_after_the_mesh(stopping_reporter) -> None:
    reporter = stopping_reporter(lambda stage, step: stage == "Building the mesh" and len(reporter.reported) == 2)
    with pytest.raises(Cancelled):
        run(DISTANCE, reporter)


def test_settings_that_are_refused(reporter) -> None:
    for settings in (
        SceneSettings(camera_height_m=0), SceneSettings(camera_height_m=float("nan")), SceneSettings(scale=-1),
        SceneSettings(max_triangles=1), SceneSettings(texture_width=10**5),
    ):  # fmt: skip
        with pytest.raises(PanoformError):
            run(DISTANCE, reporter, settings)


def test_tilted_panorama_with_turned_normals_and_bad_pixels(reporter) -> None:
    """The reply tells how the scene is to be turned; the textures hold the normals that fit the mesh."""
    tilt = Rotation.from_euler("y", 7, degrees=True).as_matrix()
    exact = room.turned(HEIGHT, tilt, furnished=False, window=False)
    wrong = exact.normal @ Rotation.from_rotvec([0, 0, 0.1]).as_matrix().T
    files = {"distance.exr": file("distance.exr", exact.distance), "normal.exr": file("normal.exr", wrong)}
    light = panorama(HEIGHT)
    light[5, 5] = np.nan
    with pytest.raises(PanoramaError, match="bad pixels"):
        run(files, reporter, panorama=light)
    reply = run(files, reporter, panorama=light, repair=True)
    np.testing.assert_allclose(reply.info.world_from_panorama, tilt.T, atol=2e-3)
    assert reply.info.camera_height_m == pytest.approx(1.6, rel=1e-3)
    assert "The floor was tilted by 7.0°." in reply.info.notices
    assert "The normals were turned by 5.7° to fit the distances." in reply.info.notices
    assert reply.info.normal_confidence == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(decoded(reply.parts[0].textures["normal"].data), exact.normal, atol=0.01)
