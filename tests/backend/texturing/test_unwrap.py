"""New UV maps: they cover a mesh once, at one scale, within [0, 1]."""

import tracemalloc

import numpy as np
import pytest
import trimesh

from panoform.backend.texturing import unwrap as unwrap_module
from panoform.backend.texturing.unwrap import unwrap
from panoform.shared.imaging.overlap import overlap
from panoform.shared.imaging.rasterise import rasterise


def staircase():
    """A spiral ramp of three turns, whose turns lie above each other."""
    angle = np.linspace(0, 6 * np.pi, 200)
    outer, inner = (np.stack([r * np.cos(angle), r * np.sin(angle), angle / 10], axis=-1) for r in (1, 0.5))
    return np.concatenate(
        [np.stack([outer[:-1], outer[1:], inner[:-1]], axis=1), np.stack([outer[1:], inner[1:], inner[:-1]], axis=1)]
    )


SHAPES = {
    "box": trimesh.creation.box((1, 2, 5)).triangles,
    "ball": trimesh.creation.icosphere(4).triangles,
    "torus": trimesh.creation.torus(1, 0.3).triangles,
    "staircase": staircase(),
    "triangles": np.random.default_rng(0).random((300, 3, 3)),
    "degenerate": np.concatenate([trimesh.creation.box().triangles, np.ones((3, 3, 3))]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_map_covers_the_mesh_once(name):
    corners = SHAPES[name]
    uv = unwrap(corners * 7 + 3)
    assert uv.shape == (len(corners), 3, 2)
    assert uv.min() >= 0
    assert uv.max() <= 1
    points = np.stack([uv[..., 0], 1 - uv[..., 1]], axis=-1) * 1024
    assert overlap(points, 1024, 1024) < 1e-3
    shown = np.unique(rasterise(points, 1024, 1024).triangle)
    assert (shown >= 0).sum() >= (
        np.linalg.norm(np.cross(*(np.diff(corners, axis=1).swapaxes(0, 1))), axis=-1) > 0
    ).sum()


def test_many_triangles_on_one_edge_take_little_memory():
    """Triangles like the pages of a book, and as many that are points: hundreds of MB if each pair were kept."""
    spine = np.array([[0.0, 0, 0], [0, 0, 1]])
    angle = np.linspace(0.1, 0.6, 3000)
    rim = np.stack([np.cos(angle), np.sin(angle), 0.5 + 0 * angle], axis=-1)[:, None]
    pages = np.concatenate([spine[None].repeat(len(rim), 0), rim], axis=1)
    points = 0.5 + 1e-9 * np.random.default_rng(0).random((3000, 3, 3))
    corners = np.concatenate([pages, points])
    tracemalloc.start()
    chart = unwrap_module._charts(corners, np.zeros(len(corners), int))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7
    assert len(np.unique(chart[: len(pages)])) == 1
    assert len(np.unique(chart)) == 1 + len(points)


def test_scale_is_one_and_sides_are_not_mirrored():
    """The sides of a box have their areas' ratios, and run anticlockwise as the faces do, seen from outside."""
    corners = SHAPES["box"]
    uv = unwrap(corners).astype(np.float64)
    one, other = (np.moveaxis(uv[:, k] - uv[:, 0], -1, 0) for k in (1, 2))
    area = one[0] * other[1] - one[1] * other[0]
    true = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    np.testing.assert_allclose(area / true, area[0] / true[0], rtol=1e-3)
    assert area[0] > 0
    assert area.sum() / 2 > 0.3, "a box of this shape leaves less than two thirds unused"
