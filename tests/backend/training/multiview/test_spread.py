"""The colours that training spreads over an object, beside those of the engine projection on the same mesh."""

import numpy as np
import pytest
import torch
import trimesh

from panoform.backend.texturing import cameras, completion, projection, texture
from panoform.backend.texturing.cameras import Mesh
from panoform.backend.texturing.unwrap import unwrap
from panoform.backend.training.multiview import spread
from panoform.backend.training.multiview.render import Sample

SIZE = 64


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    """Return a shape in the cameras' frame, with a UV map."""
    corners = np.asarray(shape.triangles)
    centre, side = cameras.fit(corners)
    corners = (corners - centre) / side
    normals = np.asarray(shape.vertex_normals)[shape.faces]
    return Mesh(corners, normals, unwrap(corners))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [trimesh.creation.icosphere(4), trimesh.creation.capsule(1.0, 0.5)])
def test_spread_colours_are_those_of_the_projection(shape, monkeypatch):
    monkeypatch.setattr(projection, "_main_part", lambda *_: None)  # nothing is guessed
    mesh = mesh_of(shape)
    seen = [cameras.render(mesh, number, SIZE) for number in range(6)]
    truth = [np.where(view.mask[..., None], 0.5 + 0.4 * np.sin(view.position * (5, 7, 6) + 1), 0.5) for view in seen]
    control = [cameras.control_image(view) for view in seen]

    def stacked(images: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(images).astype(np.float32)).movedim(-1, 1)[None]

    views, shown = spread.project(Sample(stacked(truth), stacked(control)))

    view = cameras.render(mesh, 0, 512)
    front = np.concatenate([0.5 + 0.4 * np.sin(view.position * (5, 7, 6) + 1), view.mask[..., None]], axis=-1)
    made = projection.project(
        mesh, None, (front * 255).round().astype(np.uint8), 512, 256, lambda: None, completion.bundled
    )
    projected = texture.views(mesh, None, made.texture, SIZE)
    masks = np.stack([view.mask for view in seen])
    hidden = masks & (shown[0, :, 0].numpy() == 0)
    assert 0.5 < hidden.sum() / masks.sum() < 0.9
    error = np.abs(views[0].movedim(1, -1).numpy() - projected)
    change = np.abs(np.stack(truth) - projected)[hidden].mean()
    assert error[hidden].mean() < 0.035
    assert error[hidden].mean() < 0.4 * change, "what is spread is nearer to the projection's than to the truth"


def test_what_is_seen_stays_and_the_rest_of_one_colour_is_that():
    """A plate that faces the front, red with a green spot: its back is between them."""
    control = torch.full((1, 6, 6, 16, 16), 0.5)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    place = torch.stack([(x + 0.5) / 16 - 0.5, torch.zeros(16, 16), 0.5 - (y + 0.5) / 16]) * cameras.ORTHO_SCALE
    for number, sign in ((0, 1), (2, -1)):
        control[0, number, :3] = place * torch.tensor([sign, 1, 1])[:, None, None] + 0.5
        control[0, number, 1] += -0.05 * sign
        control[0, number, 3:] = torch.tensor([0.5, 0.5 - 0.5 * sign, 0.5])[:, None, None]
    truth = torch.zeros(1, 6, 3, 16, 16)
    truth[0, 0, 0] = 1.0
    truth[0, 0, :, 4:8, 4:8] = torch.tensor([0.0, 1, 0])[:, None, None]
    views, seen = spread.project(Sample(truth, control))
    assert torch.equal(views[0, 0], truth[0, 0])
    assert seen[0, 0].all()
    assert not seen[0, 2].any()
    back = views[0, 2]
    assert back[2].abs().max() < 0.01
    assert back[0].max() > 0.9
    assert torch.equal(views[0, 1], truth[0, 1]), "nothing of it is seen from aside"
