"""What the bundled model guesses of surfaces that it never saw, beside their true colours."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from texturing_shapes import SHAPES, unwrapped

from panoform.backend.texturing import cameras, completion, projection, texture
from panoform.backend.texturing.cameras import Mesh
from panoform.backend.texturing.unwrap import unwrap
from panoform.backend.training.multiview import objects, rays

SIZE = 128


def lump(seed: int) -> Mesh:
    """Return a sphere with smooth bumps, in the cameras' frame, with a UV map."""
    generator, shape = np.random.default_rng(seed), trimesh.creation.icosphere(4)
    bumps = np.zeros(len(shape.vertices))
    for _ in range(6):
        bumps += 0.12 * np.sin(shape.vertices @ generator.normal(size=3) * 2.2 + generator.uniform(0, 6))
    shape.vertices = shape.vertices * (1 + bumps)[:, None] * generator.uniform(0.5, 1, 3)
    corners = np.asarray(shape.triangles)
    centre, side = cameras.fit(corners)
    corners = (corners - centre) / side
    return Mesh(corners, np.asarray(shape.vertex_normals)[shape.faces], unwrap(corners))


def paint(seed: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the colours (N, 3) of points and normals (N, 3) that the generator's object of this seed would have.

    Seeds below a million are not trained on.
    """
    created = objects.create(1, seed)
    rays.simplify(created)
    one = created.only(0)
    one.origin[0], one.side[0] = 0, 2 * (one.centre[0].abs() + one.size[0]).max()

    def colours(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        given = (torch.from_numpy(values.astype(np.float32))[None] for values in (points, normals))
        return objects.albedo(one, *given)[0].numpy()

    return colours


def seen(view: cameras.View, colours: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the true picture of a view, (H, H, 4) with alpha, black where it is 0."""
    image = np.zeros((*view.mask.shape, 4))
    image[view.mask, :3] = colours(view.position[view.mask], view.normal[view.mask])
    image[view.mask, 3] = 1
    return image


@pytest.mark.slow
def test_guesses_are_nearer_to_the_truth_than_the_colours_around(monkeypatch):
    """Patterned lumps; the projection without the model is the baseline."""
    gains = []
    for seed in (0, 3, 4, 7, 8):
        mesh, colours = lump(seed), paint(seed)
        front = seen(cameras.render(mesh, 0, 256), colours)
        others = [cameras.render(mesh, number, SIZE) for number in range(1, 6)]
        truth = np.stack([seen(view, colours) for view in others])
        behind = np.stack([view.mask & (view.normal[..., 1] > 0) for view in others])

        def error(mesh: Mesh = mesh, front: np.ndarray = front, truth=truth, behind=behind) -> float:
            picture = np.round(front * 255).astype(np.uint8)
            made = projection.project(mesh, None, picture, 256, 256, lambda: None, completion.bundled)
            views = texture.views(mesh, None, made.texture, SIZE)[1:]
            return float(np.square(views - truth[..., :3])[behind].mean())

        after = error()
        with monkeypatch.context() as changed:
            changed.setattr(projection, "_main_part", lambda *_: None)
            before = error()
        gains.append(10 * np.log10(before / after))
    assert np.mean(gains) > 0.3, gains
    assert np.median(gains) > 0.2, gains
    assert min(gains) > -1, gains


def test_separate_parts_keep_the_colours_around():
    """Two boxes side by side: the model isn't asked, as on separate parts its guesses were worse."""
    both = trimesh.util.concatenate(
        [trimesh.creation.box(transform=trimesh.transformations.translation_matrix((x, 0, 0))) for x in (-1, 1)]
    )
    mesh = unwrapped(both.subdivide())

    def model() -> completion.Model:
        raise AssertionError

    picture = np.full((32, 64, 4), 255, np.uint8)
    picture[:, 0] = 0  # transparent
    made = projection.project(mesh, None, picture, 64, 64, lambda: None, model)
    assert projection.PROJECTED in made.notices
    with pytest.raises(AssertionError):
        projection.project(unwrapped(SHAPES["cube"]()), None, picture, 64, 64, lambda: None, model)


def test_known_pixels_stay_and_others_change():
    generator = np.random.default_rng(0)
    views = generator.random((6, 128, 128, 3)).astype(np.float32)
    seen = np.zeros((6, 128, 128), bool)
    seen[0] = seen[1, :64] = True
    control = np.full((6, 128, 128, 6), 0.5, np.float32)
    made = completion.completed(completion.bundled(), views, seen, control)
    assert np.array_equal(made[seen], views[seen])
    assert np.abs(made - views)[~seen].mean() > 0.01
    assert made.min() >= 0
    assert made.max() <= 1


def test_stripes_of_the_front_go_around():
    """A cylinder with horizontal stripes: the back has stripes at the same heights, where before it had one colour."""
    size, stripes = completion.SIDE, 6
    y, x = np.mgrid[:size, :size]
    height, across = 0.5 - (y + 0.5) / size, (x + 0.5) / size - 0.5
    height, across = height * cameras.ORTHO_SCALE, across * cameras.ORTHO_SCALE
    radius = 0.3
    body = (np.abs(across) < radius) & (np.abs(height) < 0.5)
    depth = np.sqrt(np.maximum(radius**2 - across**2, 0))
    pattern = np.where(np.floor((height + 0.5) * stripes) % 2, 0.8, 0.2)
    views = np.full((6, size, size, 3), 0.5, np.float32)
    control = np.full((6, size, size, 6), 0.5, np.float32)
    seen = np.zeros((6, size, size), bool)
    for number, turn in ((0, 0), (1, 90), (2, 180), (3, 270)):
        angle = np.radians(turn)
        forward, right = np.array([np.sin(angle), -np.cos(angle), 0]), np.array([np.cos(angle), np.sin(angle), 0])
        place = depth[..., None] * forward + across[..., None] * right + height[..., None] * (0, 0, 1)
        normal = (depth[..., None] * forward + across[..., None] * right) / radius
        control[number][body] = np.concatenate([place + 0.5, normal / 2 + 0.5], axis=-1)[body]
        views[number][body] = 0.5
        front = body & (normal[..., 1] < -0.2)
        seen[number] = front
        views[number][front] = pattern[front][:, None]
    made = completion.completed(completion.bundled(), views, seen, control)
    inside = body & (np.abs(across) < 0.2) & (np.abs(height) < 0.4)
    back = made[2].mean(-1)[inside]
    assert np.corrcoef(back, pattern[inside])[0, 1] > 0.6


def test_weights_are_small_enough_to_ship():
    files = list(completion.BUNDLED.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 20e6
    assert completion.bundled().prompt.dtype == torch.float32
