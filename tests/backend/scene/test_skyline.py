"""The sky of soft maps, and its outline in the panorama."""

from __future__ import annotations

import analytic_room as room
import numpy as np
import pytest
from scipy import ndimage

from panoform.backend.scene import planes, sky, skyline
from panoform.shared.imaging import sphere

HEIGHT, WIDTH = 128, 256
REACH = 4
WHITE, BLUE, GREEN = (0.95, 0.95, 0.95), (0.5, 0.7, 0.95), (0.15, 0.3, 0.1)


def _valley() -> np.ndarray:
    """Return where there is sky between two hills, with a mast in front of it, (H, W) bool."""
    column, row = np.arange(WIDTH)[None, :], np.arange(HEIGHT)[:, None]
    hills = 40 + 15 * np.sin(column / WIDTH * 4 * np.pi)
    return (row < hills) & ~((np.abs(column - 96) < 3) & (row > 15))


def _picture(open_sky: np.ndarray, above: tuple[float, ...], below: tuple[float, ...]) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.02, (HEIGHT, WIDTH, 3))
    return (np.where(open_sky[..., None], above, below) + noise).clip(0, 1).astype(np.float32)


def _predicted(truth: np.ndarray) -> np.ndarray:
    """Return the truth as a model blurs it: its outline lies a pixel or two beside, and the mast is missing."""
    lowered = np.concatenate([truth[:1], truth[:1], truth[:-2]])
    return ndimage.median_filter(np.roll(lowered, 1, axis=1), 9, mode="nearest")


def _errors(found: np.ndarray, truth: np.ndarray) -> int:
    return int((found != truth).sum())


def test_outline_is_that_of_the_panorama() -> None:
    truth = _valley()
    predicted = _predicted(truth)
    found = skyline.outlined(predicted, _picture(truth, BLUE, GREEN), REACH)
    assert _errors(predicted, truth) > 500
    assert _errors(found, truth) < 25


def test_outline_stays_where_the_colours_do_not_tell() -> None:
    predicted = _predicted(_valley())
    found = skyline.outlined(predicted, _picture(_valley(), WHITE, WHITE), REACH)
    np.testing.assert_array_equal(found, predicted)


def test_sunlit_ground_of_the_colour_of_the_sky_is_none() -> None:
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[:64] = True
    picture = _picture(truth, WHITE, GREEN)
    picture[64:80, 40:80] = WHITE
    assert not skyline.outlined(truth, picture, REACH)[64:].any()


def test_specks_are_removed() -> None:
    truth = _valley()
    predicted = truth.copy()
    predicted[10, 10] = False
    predicted[60, 200] = True
    np.testing.assert_array_equal(skyline.outlined(predicted, _picture(truth, BLUE, GREEN), REACH), truth)


def test_sky_of_an_unsure_distance_is_found_by_its_normals() -> None:
    exact = room.maps(HEIGHT)
    truth = np.isinf(exact.distance)
    # A model's guesses of a distance that it can't know vary by a factor.
    varied = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=truth.shape), 2)
    distance = np.where(truth, 60 * np.exp(2 * varied), exact.distance)
    assert not (sky.find(distance) & truth).any()
    rays = sphere.directions(HEIGHT, WIDTH)
    normal = np.where(truth[..., None], -rays, exact.normal)
    found = sky.find(distance, normal=normal)
    assert (found & truth).sum() > 0.75 * truth.sum()
    assert (found & ~truth).sum() < 0.02 * truth.sum()
    assert not sky.find(distance, np.zeros_like(truth), normal).any()  # the semantic map shows none


def test_surfaces_end_at_the_sky() -> None:
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[:50] = True
    rays = sphere.directions(HEIGHT, WIDTH)
    # A round wall at 5 m around; in the maps it leads up to the sky, at 70 to 140 m, over eight pixels.
    row = np.arange(HEIGHT)[:, None]
    smeared = 5 * (20 * 2 ** np.linspace(-0.5, 0.5, WIDTH)) ** np.clip((52 - row) / 8, 0, 1)
    before = np.broadcast_to(row < 44, truth.shape)
    fitted = planes.fit(smeared, -rays)
    found, after = skyline.refine(fitted, before, _picture(truth, BLUE, GREEN), smeared)
    assert _errors(after, truth) < 20
    wall = ~after & (row < 60)
    assert smeared[wall].max() > 6
    assert found.distance[wall].max() == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize("sky_of", ["all as far", "blurred at its outline", "unsure"])
def test_outline_of_a_sky_that_is_all_as_far_stays(sky_of: str) -> None:
    """White reveals beside a window have the sky's colour; a model that is sure of the sky leaves them as they are."""
    exact = room.maps(HEIGHT)
    truth = np.isinf(exact.distance)
    assert truth.any()
    white = ndimage.binary_dilation(truth, iterations=3)
    white[HEIGHT // 2 :] &= truth[HEIGHT // 2 :]  # no sky is added below the horizon
    picture = np.where(white[..., None], WHITE, GREEN).astype(np.float32)
    varied = np.exp(np.random.default_rng(1).normal(0, 0.5, truth.shape)) if sky_of == "unsure" else 1.0
    distance = np.where(truth, 30 * varied, exact.distance).astype(np.float32)
    if sky_of == "blurred at its outline":
        distance = ndimage.gaussian_filter(distance, 1, mode=("nearest", "wrap"))
        assert np.quantile(distance[truth], 0.1) < 0.8 * np.quantile(distance[truth], 0.9)
    found = planes.fit(distance, np.where(truth[..., None], -sphere.directions(HEIGHT, WIDTH), exact.normal))
    same, refined = skyline.refine(found, truth, picture, distance)
    if sky_of != "unsure":
        np.testing.assert_array_equal(refined, truth)
        assert same is found
    else:
        assert (refined & ~truth).sum() > 0.5 * (white & ~truth).sum()
