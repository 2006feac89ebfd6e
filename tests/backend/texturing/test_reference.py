"""The reference picture: alpha, a plain border, and where the object lies."""

import numpy as np
import pytest

from panoform.backend.texturing import reference
from panoform.shared.protocol.errors import InputError


def block(alpha: bool) -> np.ndarray:
    """A green block 20 wide and 10 high, off the centre, on white."""
    picture = np.full((60, 80, 4), 255, np.uint8)
    if alpha:
        picture[..., 3] = 0
    picture[8:18, 40:60] = (30, 200, 60, 255)
    return picture


def is_green(pixels: np.ndarray) -> np.ndarray:
    return np.abs(pixels - np.array([30, 200, 60]) / 255).max(axis=-1) < 0.02


def test_object_is_centred_at_nine_tenths_on_grey():
    result, notice = reference.prepare(block(alpha=True), 96)
    assert notice == ""
    rows, columns = (np.flatnonzero(is_green(result).any(axis=axis)) for axis in (1, 0))
    # A pixel around it belongs to the crop: 20 of 22 pixels.
    assert np.ptp(columns) + 1 == pytest.approx(96 * 0.9 * 20 / 22, abs=4)
    assert np.ptp(rows) + 1 == pytest.approx(96 * 0.9 * 10 / 22, abs=4)
    for found in (rows, columns):
        assert (found[0] + found[-1]) / 2 == pytest.approx(47.5, abs=1)
    assert (result[:20] == 0.5).all()
    # White under transparent pixels does not show at the outline.
    assert result[..., 0].max() < 0.52


def test_plain_border_of_an_opaque_picture_is_removed():
    result, notice = reference.prepare(block(alpha=False), 96)
    assert notice == reference.KEYED
    # Of the block, a pixel is removed all around: 18 × 8 of 20, less soft outlines.
    assert is_green(result).mean() == pytest.approx((0.9 * 18 / 20) * (0.9 * 8 / 20), abs=0.12)
    assert result[..., 0].max() < 0.52


def test_white_inside_of_the_object_stays():
    picture = block(alpha=False)
    picture[11:15, 46:54, :3] = 255
    result, _ = reference.prepare(picture, 96)
    np.testing.assert_allclose(result[48, 48], 1, atol=0.02)


def test_pictures_without_an_object_are_refused():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 4), np.uint8)
    noise[..., 3] = 255
    for picture, message in (
        (noise, "background is not of one colour"),
        (np.full((32, 32, 4), 255, np.uint8), "one colour only"),
        (np.zeros((32, 32, 4), np.uint8), "transparent everywhere"),
    ):
        with pytest.raises(InputError, match=message):
            reference.prepare(picture, 64)
