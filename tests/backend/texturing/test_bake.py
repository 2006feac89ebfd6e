"""Control images and baking compared with the reference's (tests/golden/multiview), and textures seen again."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import ndimage
from texturing_shapes import SHAPES, unwrapped

from panoform.backend.texturing import cameras
from panoform.backend.texturing.bake import bake
from panoform.backend.texturing.cameras import Mesh
from panoform.backend.texturing.fill import fill, pad
from panoform.backend.texturing.subdivide import subdivide
from panoform.shared.jobs.texture import VIEWS

GOLDEN = Path(__file__).parents[2] / "golden" / "multiview"


@pytest.fixture(scope="module")
def geometry() -> dict[str, np.ndarray]:
    return load_file(GOLDEN / "geometry.safetensors")


def golden_mesh(geometry: dict[str, np.ndarray]) -> Mesh:
    faces, uv_faces = geometry["faces"], geometry["uv_faces"]
    return Mesh(geometry["v_pos"][faces], geometry["v_nrm"][faces], geometry["uv"][uv_faces])


@pytest.mark.parametrize("view", range(6), ids=VIEWS)
def test_control_images_match_the_reference(geometry, view):
    seen = cameras.render(golden_mesh(geometry), view, 64)
    mask = geometry["mask"][view] > 0
    assert np.array_equal(seen.mask, mask)
    np.testing.assert_allclose(seen.position[mask], geometry["pos"][view][mask], atol=1e-5)
    np.testing.assert_allclose(seen.normal[mask], geometry["normal"][view][mask], atol=1e-4)
    expected = load_file(GOLDEN / "ig2mv.safetensors")["control_u8"][view].transpose(1, 2, 0) / 255
    np.testing.assert_allclose(cameras.control_image(seen), expected, atol=0.5 / 255 + 1e-3)


def test_cameras_match_the_reference(geometry):
    np.testing.assert_allclose(np.swapaxes(cameras.AXES, 1, 2), geometry["c2w"][:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(cameras.AXES[:, 2] * cameras.DISTANCE, geometry["c2w"][:, :3, 3], atol=1e-6)


def test_baking_matches_the_reference(geometry):
    """Its texture has v = 0 in the first row, and its slope is not scaled to the size of the views."""
    expected = load_file(GOLDEN / "bake.safetensors")
    baked = bake(golden_mesh(geometry), expected["views_u8"].transpose(0, 2, 3, 1) / 255, 96, max_gradient=0.1)
    valid = expected["valid"] > 0
    assert np.array_equal(baked.valid[::-1], valid)
    np.testing.assert_allclose(baked.texture[::-1][valid], expected["texture"][valid], atol=1e-4)
    np.testing.assert_allclose(baked.weight[:, ::-1], expected["weight"], atol=1e-5)


def colour(position: np.ndarray) -> np.ndarray:
    """A smooth pattern in space."""
    return 0.5 + 0.4 * np.sin(position * (5, 7, 6) + (0, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_baked_views_are_seen_again(shape):
    """Six views of a known pattern, baked, and the pattern at each texel."""
    mesh = unwrapped(SHAPES[shape]())
    views = np.stack([colour(cameras.render(mesh, view, 256).position) for view in range(6)])
    baked = bake(mesh, views, 512)
    points = baked.interpolate(mesh.corners)
    seen = baked.valid
    assert seen.sum() > 0.8 * baked.covered.sum()
    error = (baked.texture - colour(points))[seen]
    assert -10 * np.log10((error**2).mean()) > 40  # measured: 47.9 (torus) to 62 dB
    # What no view sees is near to what is seen.
    fine = subdivide(mesh, 1 / 64)
    baked = bake(fine, views, 512)
    filled = fill(baked, fine)
    error = (filled - colour(baked.interpolate(fine.corners)))[baked.covered]
    assert -10 * np.log10((error**2).mean()) > 26


def test_fill_spreads_over_the_surface_only():
    """A wall whose middle no view sees is filled from above and below, not from a wall 1 mm behind it."""
    grid = np.linspace(-0.5, 0.5, 9)

    def wall(y: float, left: float) -> tuple[np.ndarray, np.ndarray]:
        points = np.array([[x, y, z] for z in grid for x in grid])
        uv = np.array([[left + 0.45 * (x + 0.5), 0.05 + 0.9 * (z + 0.5)] for z in grid for x in grid])
        index = np.array(
            [[r * 9 + c, r * 9 + c + 1, r * 9 + c + 10, r * 9 + c + 9] for r in range(8) for c in range(8)]
        )
        triangles = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]])
        return points[triangles], uv[triangles]

    (near, near_uv), (far, far_uv) = wall(0.0, 0.02), wall(0.001, 0.51)
    corners = np.concatenate([near, far])
    mesh = Mesh(corners, np.broadcast_to([0.0, -1, 0], corners.shape), np.concatenate([near_uv, far_uv]))
    baked = bake(mesh, np.zeros((6, 64, 64, 1)), 128)
    points = baked.interpolate(mesh.corners)
    first = baked.covered & (np.arange(128) < 64)
    valid = baked.covered & (~first | (np.abs(points[..., 2]) > 0.3))
    # The first wall is a slope from 0 below to 1 above; the second, 1 mm behind it, is 5.
    texture = np.where(first, points[..., 2] + 0.5, 5.0)[..., None] * valid[..., None]
    baked = type(baked)(**vars(baked) | {"valid": valid, "texture": texture.astype(np.float32)})
    filled = fill(baked, mesh)[..., 0]
    np.testing.assert_allclose(filled[first], points[first][:, 2] + 0.5, atol=0.06)  # half an edge
    np.testing.assert_allclose(filled[baked.covered & ~first], 5)


@pytest.mark.slow
def test_subdivided_surface_is_the_same(geometry):
    mesh = golden_mesh(geometry)
    fine = subdivide(mesh, 0.02)
    assert len(fine.corners) > 4 * len(mesh.corners)
    edges = np.linalg.norm(fine.corners - np.roll(fine.corners, 1, axis=1), axis=-1)
    assert edges.max() <= 0.02
    for view in range(6):
        one, other = (cameras.render(each, view, 64) for each in (mesh, fine))
        assert np.array_equal(one.mask, other.mask)
        np.testing.assert_allclose(one.normal, other.normal, atol=1e-5)


def test_margins_continue_the_islands():
    texture, covered = np.zeros((16, 16, 1), np.float32), np.zeros((16, 16), bool)
    covered[5:9, 5:9], texture[5:9, 5:9] = True, 1
    padded = pad(texture, covered, 4)[..., 0]
    assert np.array_equal(padded > 0, ndimage.distance_transform_edt(~covered) <= 4)
    assert not pad(texture, np.zeros_like(covered), 4).sum() - texture.sum()
