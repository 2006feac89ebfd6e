"""Small jobs for bench/soak.py: of every kind that needs no download, and never the same twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import trimesh

from panoform.shared.engines import EngineSettings
from panoform.shared.imaging import sphere
from panoform.shared.jobs.generate import GenerateRequest, GenerateSettings, View
from panoform.shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings
from panoform.shared.jobs.scene import SceneRequest, SceneSettings
from panoform.shared.jobs.texture import TextureRequest, TextureSettings
from panoform.shared.maps import DEFAULT_MAPS, MAPS
from panoform.shared.protocol.messages import JobRequest

#: Height of panoramas in pixels.
HEIGHT = 64


def perceive(seed: int, steps: int = 1) -> PerceiveRequest:
    """Perceive the distance of noise."""
    pixels = np.random.default_rng(seed).random((HEIGHT, 2 * HEIGHT, 3), dtype=np.float32)
    settings = PerceiveSettings(maps=("distance",), height=HEIGHT, num_inference_steps=steps, seed=seed)
    return PerceiveRequest(panorama=pixels, encoding="srgb", engine=EngineSettings(), settings=settings)


def all_maps() -> PerceiveRequest:
    """Perceive all maps of a plain panorama, of which scenes are built."""
    settings = PerceiveSettings(maps=DEFAULT_MAPS, height=HEIGHT)
    return PerceiveRequest(panorama=_panorama(0), encoding="srgb", engine=EngineSettings(), settings=settings)


def _panorama(seed: int) -> np.ndarray:
    """Return a smooth panorama with a lamp, (HEIGHT, 2·HEIGHT, 3) sRGB."""
    pixels = (0.5 + 0.3 * sphere.directions(HEIGHT, 2 * HEIGHT)).astype(np.float32)
    column = seed * 5 % (2 * HEIGHT - 4)
    pixels[HEIGHT // 4 : HEIGHT // 4 + 3, column : column + 4] = 1
    return pixels


def _scene(maps: PerceiveReply) -> Callable[[int], SceneRequest]:
    files = {MAPS[name].filename: data for name, data in maps.maps.items()}
    settings = SceneSettings(max_triangles=5000, texture_width=128, match_panorama=True)
    return lambda seed: SceneRequest(files=files, panorama=_panorama(seed), settings=settings)


def _generate(seed: int) -> GenerateRequest:
    """Complete a picture, and measure its light."""
    picture = np.random.default_rng(seed).random((24, 32, 3), dtype=np.float32)
    picture[:4, :4] = 1
    settings = GenerateSettings(height=256, num_inference_steps=1, hdr=True, measure_light=True, seeds=(seed,))
    return GenerateRequest(picture=picture, view=View(fov=60), engine=EngineSettings(), settings=settings)


def _texture(seed: int) -> TextureRequest:
    """Project a picture onto a ball."""
    ball = trimesh.creation.icosphere(2)
    corners = np.array(ball.vertices[ball.faces], np.float32)
    side = int(np.ceil(np.sqrt(len(corners))))
    cell = np.stack(np.divmod(np.arange(len(corners)), side), axis=-1)[:, None]
    uv = ((cell + np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]])) / side).astype(np.float32)
    reference = np.random.default_rng(seed).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    reference[..., 3] = 0
    reference[8:-8, 8:-8, 3] = 255
    return TextureRequest(
        corners=corners, normals=corners, uv=uv, reference=reference, engine=EngineSettings(engine="projection"),
        settings=TextureSettings(view_size=64, texture_size=128),
    )  # fmt: skip


#: Kind of job → what makes its requests, by their numbers, from the maps of `all_maps`.
KINDS: Mapping[str, Callable[[PerceiveReply], Callable[[int], JobRequest]]] = {
    "perceive": lambda _: perceive,
    "scene": _scene,
    "generate": lambda _: _generate,
    "texture": lambda _: _texture,
}
