"""Rendered objects compared with a mesh that a rasteriser draws, and with their own colours."""

import dataclasses

import numpy as np
import pytest
import torch
import trimesh

from panoform.backend.texturing import cameras
from panoform.backend.texturing.cameras import Mesh
from panoform.backend.training.multiview import objects
from panoform.backend.training.multiview.objects import Objects
from panoform.backend.training.multiview.render import Renderer

HALF = (0.5, 0.3, 0.2)
COLOUR = (0.8, 0.4, 0.1)


@pytest.fixture
def one_box(monkeypatch):
    """Objects are one box of one colour, off the origin."""

    def create(count: int, seed: int) -> Objects:
        drawn = original(count, seed)
        return dataclasses.replace(
            drawn,
            kind=torch.zeros_like(drawn.kind),
            exists=torch.arange(objects.PARTS).expand(count, -1) == 0,
            size=torch.tensor(HALF).expand(count, objects.PARTS, 3).clone(),
            centre=torch.full((count, objects.PARTS, 3), 0.1),
            rounding=torch.full((count, objects.PARTS), 1e-3),
            taper=torch.zeros(count, objects.PARTS),
            axes=torch.eye(3).expand(count, objects.PARTS, 3, 3),
            mirrored=torch.zeros_like(drawn.mirrored),
            pattern=torch.zeros_like(drawn.pattern),
            colours=torch.tensor(COLOUR).expand(count, objects.PARTS, 2, 3),
            mark_radius=torch.zeros_like(drawn.mark_radius),
            dip=torch.full((count,), -1e3),
        )

    original = objects.create
    monkeypatch.setattr(objects, "create", create)


@pytest.mark.parametrize("exact", [pytest.param(False, marks=pytest.mark.slow), True])
def test_box_is_that_of_the_rasteriser(one_box, exact):
    torch.set_num_threads(1)
    drawn = Renderer(torch.device("cpu"), exact=exact).render(1, 0, 48)
    corners = trimesh.creation.box(np.array(HALF) * 2).triangles
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.repeat((faces / np.linalg.norm(faces, axis=-1, keepdims=True))[:, None], 3, axis=1)
    mesh = Mesh(corners / (2 * HALF[0]), normals, np.zeros((len(corners), 3, 2)))
    for number in range(6):
        view = cameras.render(mesh, number, 48)
        control = drawn.control[0, number].permute(1, 2, 0).numpy()
        mask = np.abs(control[..., 3:] - 0.5).max(axis=-1) > 0.01
        both = mask & view.mask
        assert both.sum() / (mask | view.mask).sum() > 0.93, "a row of pixels at an edge, at most"
        expected = cameras.control_image(view)
        error = np.abs(control - expected)[both]
        assert error[:, :3].max() < 0.02
        assert np.median(error[:, 3:]) < 0.01
        colours = drawn.views[0, number].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(colours[mask], np.broadcast_to(COLOUR, (mask.sum(), 3)), atol=1e-4)
        np.testing.assert_allclose(colours[~mask], 0.5, atol=1e-6)


def test_objects_are_determined_by_the_seed_and_differ():
    one, again, other = (objects.create(3, seed) for seed in (5, 5, 6))
    for field in dataclasses.fields(Objects):
        assert torch.equal(getattr(one, field.name), getattr(again, field.name))
    assert not torch.equal(one.colours, other.colours)
    assert not torch.equal(one.size[0], one.size[1])
    assert one.colours.min() >= 0
    assert one.colours.max() <= 1


MESHES = {
    objects.BOX: lambda: trimesh.creation.box((2, 2, 2)),
    objects.CYLINDER: lambda: trimesh.creation.cylinder(1, 2, sections=200),
    objects.ELLIPSOID: lambda: trimesh.creation.icosphere(5),
}


@pytest.mark.parametrize("kind", MESHES)
def test_exact_part_is_that_of_the_rasteriser(kind, monkeypatch):
    """A part that is turned, and mirrored left to right, beside the middle; its colours are of two kinds."""
    one = objects.create(1, 3)
    axes = one.axes[0, 0].new_tensor(trimesh.transformations.euler_matrix(0.5, -0.4, 1.1)[:3, :3])
    one.kind[:], one.exists[:] = kind, torch.arange(objects.PARTS) == 0
    one.size[0, 0], one.centre[0, 0], one.axes[0, 0] = torch.tensor(HALF), torch.tensor([0.6, 0.1, 0.2]), axes
    one.mirrored[0, 0] = torch.tensor([True, False])
    monkeypatch.setattr(objects, "create", lambda count, seed: one)
    drawn = Renderer(torch.device("cpu"), exact=True).render(1, 0, 64)

    mesh = MESHES[kind]()
    half = mesh.triangles * HALF @ axes.double().numpy() + (0.6, 0.1, 0.2)
    corners = np.concatenate([half, half[:, ::-1] * (-1, 1, 1)])
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.repeat((faces / np.linalg.norm(faces, axis=-1, keepdims=True))[:, None], 3, axis=1)
    centre, side = cameras.fit(corners)
    placed = Mesh((corners - centre) / side, normals, np.zeros((len(corners), 3, 2)))
    for number in range(6):
        expected = cameras.control_image(cameras.render(placed, number, 64))
        control = drawn.control[0, number].permute(1, 2, 0).numpy()
        mask, wanted = ((np.abs(image[..., 3:] - 0.5).max(axis=-1) > 0.01) for image in (control, expected))
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.93, "a row of pixels at an edge, at most"
        error = np.abs(control - expected)[mask & wanted]
        assert np.median(error[:, :3]) < 0.01
        assert np.median(error[:, 3:]) < 0.02
