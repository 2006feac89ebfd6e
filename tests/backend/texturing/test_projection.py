"""A picture projected from the front: compared with the colours that it was made of, and seen by the same cameras."""

import numpy as np
import pytest
from decoding import decoded
from texturing_shapes import SHAPES, unwrapped

from panoform.backend.models import records
from panoform.backend.models.cache import ModelCache
from panoform.backend.texturing import cameras, completion, job, projection, view_files
from panoform.backend.texturing import texture as textures
from panoform.backend.texturing.cameras import Mesh
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.texture import TextureReply, TextureRequest, TextureSettings
from panoform.shared.protocol.errors import SettingError

ENGINE = EngineSettings(engine="projection")


def pattern(position: np.ndarray) -> np.ndarray:
    """A smooth pattern in space, sRGB, different at the left and the right, above and below."""
    return 0.5 + 0.4 * np.sin(position * (5, 7, 6) + (0, 1, 2))


def front_picture(mesh: Mesh, side: int = 256) -> np.ndarray:
    """Return the front view of the pattern, (side, side, 4) uint8; black where it is transparent."""
    view = cameras.render(mesh, 0, side)
    picture = np.concatenate([pattern(view.position), view.mask[..., None]], axis=-1) * view.mask[..., None]
    return np.round(picture * 255).astype(np.uint8)


def textured(mesh: Mesh, picture: np.ndarray, reporter, **settings) -> TextureReply:
    given = {name: getattr(mesh, name).astype(np.float32) for name in ("corners", "normals", "uv")}
    request = TextureRequest(
        **given, reference=picture, engine=ENGINE,
        settings=TextureSettings(**{"view_size": 256, "texture_size": 256} | settings),
    )  # fmt: skip
    return job.run(request, ModelCache(), reporter)


@pytest.mark.slow
def test_front_shows_the_picture_and_the_rest_the_colours_around(reporter):
    """What the front sees squarely has the picture's colours; a margin of the picture is nowhere."""
    mesh = unwrapped(SHAPES["sphere"]())
    reply = textured(mesh, front_picture(mesh), reporter, texture_size=512)
    again = cameras.render(mesh, 0, 256)
    squarely = again.mask & (-again.normal[..., 1] > 0.5)
    texture = decoded(reply.texture)
    seen = textures.views(mesh, None, texture, 256)
    error = np.abs(seen[0] - pattern(again.position))[squarely]
    assert error.mean() < 0.006
    assert np.percentile(error, 99) < 0.03
    back = cameras.render(mesh, 2, 256)
    assert seen[2][back.mask].min() > 0.05, "the picture's black surroundings"
    assert 0.3 < reply.info.seen < 0.5
    info = reply.info
    assert (info.task, info.model, info.adapter, info.dtype) == ("projection", "built in", "built in", "fp32")
    assert info.weights == {"built in": records.digest(completion.BUNDLED)}
    assert "CPU" in info.device
    assert "torch" in info.versions
    assert reply.info.notices == (projection.GUESSED,)


@pytest.mark.slow
def test_back_has_no_print_of_the_front(reporter):
    """A cube with a red face before and blue sides: the back is not the mirrored front."""
    mesh = unwrapped(SHAPES["cube"]())
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., :] = (30, 60, 200, 255)
    picture[24:40, 24:40] = (220, 30, 30, 255)
    picture[:2] = picture[-2:] = picture[:, :2] = picture[:, -2:] = 0  # transparent around it
    views = view_files.decode(textured(mesh, picture, reporter).views)
    front, back = views[0][128, 128], views[2][128, 128]
    assert front[0] > 0.75
    assert front[2] < 0.25
    assert back[0] < 0.25
    assert back[2] > 0.6


@pytest.mark.slow
def test_object_is_stretched_to_the_front_and_told_if_unlike(reporter):
    """A picture of twice the width fits the sphere; one of another outline is told."""
    mesh = unwrapped(SHAPES["sphere"]())
    expected = decoded(textured(mesh, front_picture(mesh), reporter, view_size=64).texture)
    wide = np.repeat(front_picture(mesh), 2, axis=1)
    found = textured(mesh, wide, reporter, view_size=64)
    assert np.abs(decoded(found.texture) - expected).mean() < 0.005
    cross = np.zeros((60, 60, 4), np.uint8)
    cross[25:35] = cross[:, 25:35] = (200, 200, 30, 255)
    unlike = textured(mesh, cross, reporter, view_size=64)
    assert "The outlines" in unlike.info.notices[1]
    texture = decoded(unlike.texture)
    assert np.abs(texture - np.array([200, 200, 30]) / 255).max() < 0.02, "one colour, everywhere"


@pytest.mark.slow
def test_views_show_the_texture_with_the_picture_in_front(reporter):
    mesh = unwrapped(SHAPES["torus"]())
    reply = textured(mesh, front_picture(mesh), reporter)
    views = view_files.decode(reply.views)
    view = cameras.render(mesh, 0, 256)
    assert np.abs(views[0] - pattern(view.position))[view.mask].mean() < 0.004
    for number in range(6):
        assert (np.abs(views[number] - 0.5)[~cameras.render(mesh, number, 256).mask] < 0.01).all()


def test_a_prompt_alone_is_refused(reporter):
    mesh = unwrapped(SHAPES["cube"]())
    with pytest.raises(SettingError, match=r"projection can't do this\. Choose multiview"):
        textured(mesh, None, reporter, prompt="a box")  # type: ignore[arg-type]
