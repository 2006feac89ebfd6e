"""Tests of edges of soft maps beside the panorama's: a sphere at a distance of 2, with a screen that lies behind it."""

import numpy as np
import pytest

from panoform.backend.scene import edges, layers, surface
from panoform.backend.scene.planes import Planes
from panoform.shared.imaging import sphere

HEIGHT, WIDTH = 64, 128
#: Rows and columns of the screen.
SCREEN = slice(20, 40), slice(50, 90)
#: 6 pixels of parallax for a viewer who moves by 1.
SLACK = 6 * 2 * np.pi / WIDTH


def _front(behind: float) -> tuple[layers.Layer, np.ndarray]:
    """Return a sphere with a screen `behind` times as far away, and its rays."""
    rays = sphere.directions(HEIGHT, WIDTH)
    distance = np.full((HEIGHT, WIDTH), 2, np.float32)
    distance[SCREEN] *= behind
    whole = np.ones(distance.shape, bool)
    return layers.visible(Planes(rays, distance, -rays, whole, whole, 0.003)), rays


def _picture(shift: int) -> np.ndarray:
    """Return a light room with a dark screen, `shift` pixels up and to the left of where the distances show it."""
    picture = np.full((HEIGHT, WIDTH, 3), 0.8, np.float32)
    picture[SCREEN] = 0.1
    return np.roll(picture, (-shift, -shift), (0, 1))


@pytest.mark.parametrize(
    ("behind", "shift", "torn"),
    [
        (1.2, 0, True),  # the panorama's edge
        (1.2, 2, False),  # beside it
        (4.0, 2, True),  # too large a gap
    ],
)
def test_small_gaps_are_torn_where_the_panorama_shows_an_edge(behind: float, shift: int, torn: bool) -> None:
    front, rays = _front(behind)
    links = layers.link(front, front, rays, 0.03)
    # Around the screen, 20 links on its left and right each, 40 above and below.
    assert [(~linked).sum() - off for linked, off in zip(links, (0, WIDTH), strict=True)] == [40, 80]
    joined = edges.joined(front, links, rays, SLACK, _picture(shift))
    if torn:
        assert all((one == other).all() for one, other in zip(joined, links, strict=True))
    else:
        assert joined.right.all()
        assert joined.below[:-1].all()


def test_an_edge_that_is_partly_beside_the_panoramas_is_torn_throughout() -> None:
    front, rays = _front(1.2)
    links = layers.link(front, front, rays, 0.03)
    picture = _picture(0)
    picture[25:27, 48:52] = picture[34:36, 48:52] = 0.1  # spots across the left edge
    joined = edges.joined(front, links, rays, SLACK, picture)
    assert all((one == other).all() for one, other in zip(joined, links, strict=True))


@pytest.mark.parametrize("shift", [0, 1])
def test_torn_corners_have_the_colour_of_their_own_pixel(shift: int) -> None:
    """A strip of the screen that counts as wall stays dark: its texture isn't taken from the wall beyond the edge."""
    front, rays = _front(4.0)
    picture = _picture(shift)
    links = {(0, 0): layers.link(front, front, rays, 0.03)}

    def colours(given: np.ndarray | None) -> np.ndarray:
        """Return the grey at the left outline of what is in front: right corners of the pixels beside the screen."""
        welded = surface.weld([front], links, rays, 0.003, given)
        u, v = welded.uv[welded.vertex[0, 1, 25:35, SCREEN[1].start - 1]].T
        return picture[((1 - v) * HEIGHT).astype(int), (u * WIDTH).astype(int), 0]

    np.testing.assert_allclose(colours(picture), 0.1 if shift else 0.8)
    np.testing.assert_allclose(colours(None), 0.8)
