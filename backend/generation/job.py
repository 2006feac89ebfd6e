"""The job `generate`: panoramas from a prompt, or around a picture.

A prompt   DiT360 or another LoRA generates the panorama; or FLUX generates a perspective picture, which is outpainted.
A picture  is projected into the panorama in its camera's direction, and OmniX outpaints it (`image_to_pano`).

Pictures are (H, W, 3) float32 sRGB in [0, 1]; panoramas have W = 2·H.
"""

from __future__ import annotations

import time

import msgspec
import numpy as np

from ...shared.jobs import generate as contract
from ...shared.jobs.edit import EditRequest
from ...shared.jobs.generate import GenerateReply, GenerateRequest, GenerateSettings, View
from ...shared.protocol.errors import PanoramaError, SettingError
from ..geometry import projection
from ..io.generated import Generated, encode, sha256
from ..jobs.progress import ProgressReporter
from ..lighting import recovery
from ..models.cache import ModelCache
from . import compositing
from .sampler import Embeds, Sampler, to_array, to_tensor
from .session import Session, check_capability

#: Field of view of the perspective picture that OmniX outpaints if only a prompt is given, in degrees.
PICTURE_FOV = 90.0
#: Minimum width and height of a picture to complete, in pixels.
MIN_SIDE = 16


def run(request: GenerateRequest, models: ModelCache, reporter: ProgressReporter) -> GenerateReply:
    """Run the request."""
    return reply(request, generate(request, models, reporter))


def reply(request: GenerateRequest | EditRequest, generated: list[Generated]) -> GenerateReply:
    """Return the reply with the files of these panoramas."""
    return GenerateReply(id=request.id, panoramas=tuple(encode(one, request.file_format) for one in generated))


def generate(request: GenerateRequest, models: ModelCache, reporter: ProgressReporter) -> list[Generated]:
    """Generate a panorama for each seed, from the prompt in the settings or around the picture.

    A seed's panorama doesn't depend on the other seeds, and is reproducible bit for bit on the same machine.
    Raise InputError if the request is invalid, ModelError if the model can't be loaded or run, and Cancelled from
    `reporter` within one step.
    """
    contract.check(request)
    picture, settings = request.picture, request.settings
    if picture is None:
        check_capability(request.engine, "text_to_panorama")
    else:
        _check_picture(picture)
        settings = msgspec.structs.replace(settings, method="omnix")
    if settings.method == "omnix":
        _check_guidance(settings)
    session = Session(models, request.engine, settings, reporter)
    picture_first = settings.method == "omnix" and picture is None
    embeds, *picture_embeds = session.embeds([session.prompt, *([session.settings.prompt] if picture_first else [])])
    results = []
    with session.lora_applied():
        for seed, sampler in session.samplers(picture_first=picture_first):
            began, source, view = time.monotonic(), picture, request.view
            if picture_embeds:
                source, view = to_array(sampler.text_to_picture(picture_embeds[0])), View(fov=PICTURE_FOV)
            panorama = _sample(sampler, source, view, embeds, session.base_height)
            recipe = session.recipe(seed, began, "words" if picture is None else "picture", request.source)
            recipe.encoding = "linear" if settings.hdr else "srgb"
            if picture is not None:
                recipe.view, recipe.source_sha256 = view, sha256(picture)
            results.append(Generated(panorama, recipe))
    if not settings.hdr:
        return results
    return [_with_light(one, settings, models, reporter) for one in results]


def _with_light(
    generated: Generated, settings: GenerateSettings, models: ModelCache, reporter: ProgressReporter
) -> Generated:
    """Recover the light that an sRGB panorama clips."""
    began, recipe = time.monotonic(), generated.recipe
    light, record, notices = recovery.of_picture(generated.panorama, settings, models, reporter)
    seconds, notices = round(recipe.seconds + time.monotonic() - began, 3), (*recipe.notices, *notices)
    return Generated(light, msgspec.structs.replace(recipe, light=record, seconds=seconds, notices=notices))


def _sample(sampler: Sampler, picture: np.ndarray | None, view: View, embeds: Embeds, height: int) -> np.ndarray:
    """Generate the sRGB panorama at `height`, around the picture if given, and upscale it to the settings' height."""
    if picture is None:
        panorama = to_array(sampler.text_to_panorama(embeds, height))
    else:
        panorama = _outpaint(sampler, picture, view, embeds, height)
    panorama = projection.limit_poles(sampler.upscale(panorama, None, embeds)).clip(0, 1)
    return panorama if picture is None else compositing.paste_picture(panorama, picture, view)


def _outpaint(sampler: Sampler, picture: np.ndarray, view: View, embeds: Embeds, height: int) -> np.ndarray:
    """Outpaint a picture. It is centred for the model, which was trained that way, and the result turned back."""
    columns = round(view.yaw / 360 * 2 * height)
    assert view.fov is not None
    canvas, _ = projection.panorama_from_picture(
        picture, height, view.fov, yaw=view.yaw - columns * 180 / height, pitch=view.pitch, roll=view.roll
    )
    return np.roll(to_array(sampler.outpaint(to_tensor(canvas), embeds)), -columns, axis=1)


def _check_guidance(settings: GenerateSettings) -> None:
    if settings.true_cfg_scale > 1 or settings.shift is not None:
        raise SettingError(
            "OmniX supports neither negative prompts nor shift.", "Omit them, or choose another method for prompts."
        )


def _check_picture(picture: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise PanoramaError(f"The picture has shape {picture.shape}, not (height, width, 3).", "Give an RGB picture.")
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise PanoramaError(f"The picture is {width} × {height}.", f"Give one of at least {MIN_SIDE} pixels per side.")
    if not (np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1):
        raise PanoramaError("The picture has values outside 0 to 1.", "Give it as sRGB.")
