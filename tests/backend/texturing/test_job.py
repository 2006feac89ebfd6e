"""The job `texture`: views drawn by tiny networks, known views baked and seen again, and what is refused."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import trimesh
from decoding import decoded
from safetensors.torch import load_file, save_file
from texturing_shapes import SHAPES, compact_upscaler, unwrapped

from panoform.backend.io.encoding import encode_image
from panoform.backend.models.cache import ModelCache
from panoform.backend.texturing import cameras, job, views_job
from panoform.backend.texturing.cameras import Mesh
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.texture import VIEWS, TextureReply, TextureRequest, TextureSettings, ViewsReply, ViewsRequest
from panoform.shared.protocol import wire
from panoform.shared.protocol.errors import AdapterError, Cancelled, InputError, NumericsError, SettingError

TINY = {"view_size": 64, "texture_size": 128, "num_inference_steps": 2}


def colour(position: np.ndarray) -> np.ndarray:
    """A smooth pattern in space, sRGB."""
    return 0.5 + 0.4 * np.sin(position * (5, 7, 6) + (0, 1, 2))


def picture() -> np.ndarray:
    """A red disc on transparency."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    disc = np.zeros((40, 40, 4), np.uint8)
    disc[x**2 + y**2 < 0.7] = (200, 40, 30, 255)
    return disc


@pytest.fixture(scope="module")
def models() -> ModelCache:
    return ModelCache()


@pytest.fixture
def engine(tiny_sd21, multiview_adapters) -> EngineSettings:
    return EngineSettings(engine="multiview", model=str(tiny_sd21), adapters=str(multiview_adapters))


SMALL = trimesh.creation.icosphere(1)


def request(mesh: Mesh, engine: EngineSettings | None = None, settings=None, **fields) -> TextureRequest:
    given = {name: getattr(mesh, name).astype(np.float32) for name in ("corners", "normals", "uv")}
    return TextureRequest(
        **given | fields,
        engine=engine or EngineSettings(engine="multiview"),
        settings=TextureSettings(**TINY | (settings or {})),
    )


def known_views(mesh: Mesh, side: int) -> dict[str, np.ndarray]:
    """Return the files of the views that show the pattern."""
    files = {}
    for number, name in enumerate(VIEWS):
        view = cameras.render(mesh, number, side)
        pixels = np.where(view.mask[..., None], colour(view.position), 0.5).astype(np.float32)
        files[name] = np.frombuffer(encode_image(f"{name}.png", pixels, "sRGB", bits=8), np.uint8)
    return files


def seen_again(mesh: Mesh, texture: np.ndarray, view: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the textured mesh as a view shows it, (N, 3), and the pattern at the same pixels."""
    points, depth = cameras.project(mesh.corners, view, side)
    fragments = cameras.rasterise(points, side, side, depth)
    uv = fragments.interpolate(mesh.uv)[fragments.mask]
    size = len(texture)
    column, row = (np.stack([uv[:, 0], 1 - uv[:, 1]]) * size).astype(int).clip(0, size - 1)
    return texture[row, column], colour(fragments.interpolate(mesh.corners)[fragments.mask])


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(((one - other) ** 2).mean()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "least"),
    [
        ("sphere", 50),
        pytest.param("cube", 46, marks=pytest.mark.slow),
        pytest.param("torus", 47, marks=pytest.mark.slow),
    ],
)
def test_known_views_are_seen_again(shape, least, reporter):
    """Six views baked into a texture, and the textured mesh seen by the same cameras: 52.3, 48.6 and 49.6 dB."""
    mesh = unwrapped(SHAPES[shape]())
    reply = job.run(request(mesh, views=known_views(mesh, 256), settings={"texture_size": 512}), ModelCache(), reporter)
    texture = decoded(reply.texture)
    pairs = [seen_again(mesh, texture, view, 256) for view in range(6)]
    found = psnr(*(np.concatenate(parts) for parts in zip(*pairs, strict=True)))
    assert found > least
    assert reply.info.seen > 0.8
    assert reply.info.task == ""


@pytest.mark.slow
def test_object_is_turned_centred_and_scaled(reporter):
    """The same views fit a mesh that faces +X, is elsewhere and larger."""
    mesh = unwrapped(SHAPES["sphere"]())
    settings, views = {"texture_size": 256}, known_views(mesh, 128)
    expected = job.run(request(mesh, views=views, settings=settings), ModelCache(), reporter)
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # front −Y → +X
    moved = Mesh(mesh.corners @ turn.T * 3 + (5, -2, 1), mesh.normals @ turn.T, mesh.uv)
    reply = job.run(request(moved, views=views, settings=settings | {"front": "+X"}), ModelCache(), reporter)
    assert psnr(decoded(reply.texture), decoded(expected.texture)) > 45


@pytest.mark.slow
def test_only_chosen_triangles_get_texture_and_others_hide_them(reporter):
    """A wall in front of another: the rear one gets none of the front view's colour."""
    square = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])[[0, 1, 2, 0, 2, 3]]
    square = square.reshape(2, 3, 3)
    uv = square[..., [0, 2]] * 0.9 + 0.5
    corners = np.concatenate([square + np.array([0, y, 0]) for y in (-0.1, 0.1)])
    mesh = Mesh(corners, np.broadcast_to([0.0, -1, 0], corners.shape), np.concatenate([uv, uv]))
    views = known_views(mesh, 64)
    red = np.broadcast_to([0.8, 0.1, 0.1], (64, 64, 3)).astype(np.float32)
    views["front"] = np.frombuffer(encode_image("front.png", red, "sRGB", bits=8), np.uint8)
    front, rear = (np.array(chosen, np.uint8) for chosen in ([1, 1, 0, 0], [0, 0, 1, 1]))
    reply = job.run(request(mesh, views=views, chosen=front), ModelCache(), reporter)
    np.testing.assert_allclose(decoded(reply.texture)[64, 64], red[0, 0], atol=0.01)
    assert reply.info.seen > 0.7
    with pytest.raises(InputError, match="No view shows the faces"):
        job.run(request(mesh, views=views, chosen=rear), ModelCache(), reporter)


@pytest.mark.slow
def test_views_are_drawn_and_baked(engine, models, reporter):
    mesh = unwrapped(SMALL)
    reply = job.run(request(mesh, engine, reference=picture(), source="disc.png"), models, reporter)
    received = wire.decode_answer(wire.encode(reply))
    assert isinstance(received, TextureReply)
    assert received.info == reply.info
    assert decoded(received.texture).shape == (128, 128, 3)
    assert list(received.views) == list(VIEWS)
    assert decoded(received.views["top"]).shape == (64, 64, 3)
    info = reply.info
    assert (info.task, info.dtype, info.view_size, info.notices) == ("ig2mv", "fp32", 64, ())
    assert (info.settings.prompt, info.settings.guidance_scale) == ("high quality", 3.0)
    stages = list(dict.fromkeys(stage for stage, *_ in reporter.reported))
    assert stages == ["Control images", "Loading MV-Adapter", "Views", "Decoding the views", "Baking"]
    assert reporter.reported[-1][3] == 1
    assert {name for name, _ in reporter.previews} == {"views"}
    assert reporter.previews[0][1].shape[1] <= 256
    # The record and the views give the same again, with and without inference.
    # Weights are named without their folders.
    assert (info.engine.model, info.engine.adapters) == (Path(engine.model).name, Path(engine.adapters).name)
    used = msgspec.structs.replace(info.engine, model=engine.model, adapters=engine.adapters)
    again = job.run(request(mesh, used, reference=picture(), settings={"prompt": "high quality"}), models, reporter)
    assert np.array_equal(again.texture, reply.texture)
    baked = job.run(request(mesh, views=reply.views), models, reporter)
    assert np.array_equal(baked.texture, reply.texture)


@pytest.mark.slow
def test_prompt_alone_uses_the_other_adapter(engine, models, reporter):
    mesh = unwrapped(SMALL)
    reply = job.run(request(mesh, engine, settings={"prompt": "a red ball", "upscale": "bicubic"}), models, reporter)
    assert (reply.info.task, reply.info.settings.guidance_scale) == ("tg2mv", 7.0)
    assert decoded(reply.views["front"]).shape == (128, 128, 3)
    with pytest.raises(SettingError, match="tokens long; the model reads 77"):
        job.run(request(mesh, engine, settings={"prompt": "red " * 60}), models, reporter)


@pytest.mark.slow
def test_views_are_enlarged_by_an_upscaler_of_the_user(engine, models, reporter, tmp_path):
    pytest.importorskip("spandrel", reason="spandrel isn't installed: pip install -e '.[upscale]'")
    file = tmp_path / "compact.safetensors"
    save_file(compact_upscaler(2), file)
    settings = {"prompt": "a red ball", "upscale": "file", "upscaler": str(file)}
    reply = job.run(request(unwrapped(SMALL), engine, settings=settings), models, reporter)
    view = decoded(reply.views["front"])
    assert view.shape == (128, 128, 3)
    assert np.array_equal(view[::2, ::2], view[1::2, 1::2]), "this one repeats each pixel"
    assert reply.info.settings.upscaler == file.name
    assert file.name in reply.info.weights


@pytest.mark.slow
def test_control_images_replace_the_mesh(engine, models, reporter):
    mesh = unwrapped(SMALL)
    expected = job.run(request(mesh, engine, reference=picture()), models, reporter)
    control = {name: cameras.control_image(cameras.render(mesh, n, 64)) for n, name in enumerate(VIEWS)}
    asked = ViewsRequest(
        control=control, reference=picture(), engine=engine, settings=TextureSettings(num_inference_steps=2)
    )
    reply = views_job.run(wire.decode_request(wire.encode(asked)), models, reporter)
    assert isinstance(wire.decode_answer(wire.encode(reply)), ViewsReply)
    for name in VIEWS:
        np.testing.assert_allclose(decoded(reply.views[name]), decoded(expected.views[name]), atol=2.1 / 255)
    del control["left"]
    with pytest.raises(InputError, match="no control image of left"):
        views_job.run(asked, models, reporter)


@pytest.mark.slow
def test_job_is_cancelled_within_a_step(engine, models, stopping_reporter):
    mesh = unwrapped(SMALL)
    stop = stopping_reporter(lambda stage, step: stage == "Views" and step == 1)
    with pytest.raises(Cancelled):
        job.run(request(mesh, engine, reference=picture()), models, stop)
    assert stop.reported[-1][:2] == ("Views", 1)


@pytest.fixture
def overflowing(tiny_sd21, tmp_path):
    """Return a base whose U-Net is finite in float32, but overflows float16."""
    folder = shutil.copytree(tiny_sd21, tmp_path / "sd21")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"conv_in.weight": state["conv_in.weight"] * 1e5}, file)
    return folder


@pytest.mark.slow
def test_nan_in_half_precision_is_drawn_again_in_float32(overflowing, multiview_adapters, reporter):
    mesh = unwrapped(SMALL)
    engine = EngineSettings(engine="multiview", model=str(overflowing), adapters=str(multiview_adapters), dtype="fp16")
    reply = job.run(request(mesh, engine, reference=picture()), ModelCache(), reporter)
    assert reply.info.dtype == "fp32"
    (notice,) = reply.info.notices
    assert "after step 1 of 2, computed in float16. The views were drawn again in float32." in notice


@pytest.mark.slow
def test_nan_in_float32_is_an_error(tiny_sd21, multiview_adapters, reporter, tmp_path):
    folder = shutil.copytree(tiny_sd21, tmp_path / "sd21")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"conv_out.bias": torch.full_like(state["conv_out.bias"], torch.nan)}, file)
    engine = EngineSettings(engine="multiview", model=str(folder), adapters=str(multiview_adapters))
    with pytest.raises(NumericsError, match="step 1 of 2, computed in float32"):
        job.run(request(unwrapped(SMALL), engine, reference=picture()), ModelCache(), reporter)


@pytest.mark.slow
def test_adapter_of_another_task_is_refused(engine, multiview_adapters, reporter):
    file = multiview_adapters / "mvadapter_tg2mv_sd21.safetensors"
    wrong = msgspec.structs.replace(engine, adapters=str(file))
    with pytest.raises(AdapterError, match="the adapter of tg2mv, not of ig2mv"):
        job.run(request(unwrapped(SMALL), wrong, reference=picture()), ModelCache(), reporter)
    starter = EngineSettings()
    with pytest.raises(SettingError, match="starter can't do this"):
        job.run(request(unwrapped(SMALL), starter, reference=picture()), ModelCache(), reporter)


SPHERE = unwrapped(SHAPES["sphere"]())
NAN = np.where(np.arange(9).reshape(1, 3, 3) == 4, np.nan, SPHERE.corners).astype(np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corners": np.zeros((0, 3, 3), np.float32)}, "no faces"),
        ({"corners": np.zeros((1_000_001, 3, 3), np.float32)}, "1,000,001 triangles"),
        ({"corners": SPHERE.corners[:5].astype(np.float32)}, "normals are .* instead of"),
        ({"corners": NAN}, "corners have values that are not finite"),
        ({"corners": SPHERE.corners.astype(np.float32) * 0}, "no size"),
        ({"uv": SPHERE.uv.astype(np.float32) * 0}, "no UV map"),
        ({"uv": SPHERE.uv.astype(np.float32) + 1}, "beyond 0 to 1"),
        ({"uv": SPHERE.uv[np.arange(len(SPHERE.uv)) // 4 * 4].astype(np.float32)}, "used by more than one face"),
        ({"chosen": np.zeros(len(SPHERE.uv), np.uint8)}, "No face is chosen"),
        ({"views": None}, "neither a reference picture nor a prompt"),
        ({"views": None, "reference": np.zeros((20, 20, 3), np.uint8)}, "instead of"),
        ({"views": None, "reference": np.zeros((20, 8, 4), np.uint8)}, "8 × 20"),
        ({"settings": {"texture_size": 5000}}, "texture's size is 5000 px"),
        ({"settings": {"view_size": 100}}, "Use 64 or 128"),
        ({"settings": {"upscale": "magic"}}, "no way to upscale called 'magic'"),
        ({"settings": {"upscale": "file"}}, "There is no upscaler"),
    ],
)
def test_invalid_requests_are_refused(fields, message, reporter):
    with pytest.raises(InputError, match=message):
        job.run(request(SPHERE, **{"views": known_views(SPHERE, 64)} | fields), ModelCache(), reporter)


def test_views_that_are_not_drawn_are_not_enlarged(reporter):
    projection = EngineSettings(engine="projection")
    asked = request(SPHERE, projection, reference=picture(), settings={"upscale": "bicubic"})
    with pytest.raises(SettingError, match="engine projection draws no views that could be enlarged"):
        job.run(asked, ModelCache(), reporter)
    baked = request(SPHERE, views=known_views(SPHERE, 64), settings={"upscale": "bicubic"})
    assert job.run(baked, ModelCache(), reporter).info.settings.upscale == "off"


def test_invalid_views_are_refused(reporter):
    views = known_views(SPHERE, 64)
    for change, message in (
        ({"left": known_views(SPHERE, 32)["left"]}, "left is 32 × 32 px"),
        ({"back": np.zeros(50, np.uint8)}, "back can't be read"),
        ({"inside": views["left"]}, "no view called inside"),
    ):
        with pytest.raises(InputError, match=message):
            job.run(request(SPHERE, views=views | change), ModelCache(), reporter)
    less = request(SPHERE, views={name: views[name] for name in ("right", "back", "left", "bottom")})
    with pytest.raises(InputError, match="no view of front, top"):
        job.run(less, ModelCache(), reporter)
