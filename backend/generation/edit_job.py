"""The job `edit`: change a panorama inside a mask, extend it, or vary all of it.

Noise is added to the panorama according to the strength, and removed guided by the prompt inside the mask.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec
import numpy as np

from ...shared.jobs import edit as contract
from ...shared.jobs.edit import EditRequest
from ...shared.jobs.generate import MIN_HEIGHT, GenerateReply, GenerateSettings
from ...shared.panorama_size import check_size
from ...shared.protocol.errors import PanoramaError, SettingError
from ..geometry import projection
from ..io import panoramas
from ..io.generated import Generated, sha256
from ..jobs.progress import ProgressReporter
from ..lighting import exposure, inverse_tonemapping, recovery
from ..lighting.recovery import Recovered
from ..models.cache import ModelCache
from . import compositing, job
from .sampler import mask_to_tensor, to_array, to_tensor
from .session import Session, check_capability


class _Input(NamedTuple):
    """A panorama to edit, checked."""

    #: (H, W, 3) float32 in the request's encoding; when extending, missing pixels are filled in.
    panorama: np.ndarray
    #: (H, W) bool; None: everywhere.
    mask: np.ndarray | None
    #: The model's sRGB input, and its exposure (None for an sRGB panorama).
    picture: np.ndarray
    exposure: dict[str, float | str] | None

    def picture_at(self, height: int) -> np.ndarray:
        """Return the picture at that height."""
        return panoramas.resize(self.picture, height)

    def mask_at(self, height: int) -> np.ndarray | None:
        """Return the mask at that height, with every pixel that overlaps it."""
        if self.mask is None:
            return None
        return panoramas.resize(self.mask[..., None].astype(np.float32), height)[..., 0] > 0


def run(request: EditRequest, models: ModelCache, reporter: ProgressReporter) -> GenerateReply:
    """Run the request."""
    return job.reply(request, edit(request, models, reporter))


def edit(request: EditRequest, models: ModelCache, reporter: ProgressReporter) -> list[Generated]:
    """Change the panorama inside the mask (None: everywhere), once for each seed; size and encoding stay.

    Outside the mask it is unchanged, bit for bit. In linear light, pixels that are white before and after keep their
    value; the light of newly white pixels is recovered, or that of white without `settings.hdr`.
    Raise InputError if the request is invalid, ModelError if the model can't be loaded or run, and Cancelled from
    `reporter` within one step.
    """
    contract.check(request)
    check_capability(request.engine, "edit")
    source = _check(request)
    height = len(source.panorama)
    settings = msgspec.structs.replace(request.settings, height=min(request.settings.height, max(height, MIN_HEIGHT)))
    session = Session(models, request.engine, settings, reporter)
    if (generated := session.settings.height) < height:
        session.notices.append(
            f"The edit was generated at {2 * generated} × {generated} and enlarged to {2 * height} × {height}."
        )
    (embeds,) = session.embeds([session.prompt])
    base, base_mask = source.picture_at(session.base_height), source.mask_at(session.base_height)
    full_mask = source.mask_at(session.settings.height)
    results = []
    with session.lora_applied():
        for seed, sampler in session.samplers(strength=request.strength):
            began = time.monotonic()
            picture = to_array(sampler.edit(to_tensor(base), mask_to_tensor(base_mask), request.strength, embeds))
            picture = projection.limit_poles(sampler.upscale(picture, full_mask, embeds)).clip(0, 1)
            picture = panoramas.resize(picture, height)
            made = Recovered(_composite(source, picture), None)
            if settings.hdr and source.exposure is not None:
                made = _recovered(source, picture, made.light, settings, models, reporter)
            recipe = session.recipe(seed, began, "edit", request.source)
            recipe = msgspec.structs.replace(
                recipe, strength=request.strength, extend=request.extend, exposure=source.exposure,
                encoding=request.encoding, light=made.record, turn=request.turn, size=(height, 2 * height),
                notices=(*recipe.notices, *made.notices),
                source_sha256=sha256(request.panorama[..., :3]),
                mask_sha256="" if source.mask is None else sha256(source.mask),
            )  # fmt: skip
            results.append(Generated(made.light, recipe))
    return results


def _check(request: EditRequest) -> _Input:
    """Check the pixels and the mask. Raise PanoramaError if they are invalid, SettingError if nothing is to extend."""
    panorama = request.panorama
    if panorama.ndim == 3 and panorama.shape[1] != 2 * panorama.shape[0]:
        check_size(*panorama.shape[:2])
        raise PanoramaError(
            f"The panorama is {panorama.shape[1]} × {panorama.shape[0]}, not exactly 2:1.", "Scale it, then edit it."
        )
    mask = _check_mask(request.mask, panorama)
    if request.extend:
        if mask is None or mask.all() or request.strength < 1:
            raise SettingError("There is nothing to extend from.", "Mask the missing area; the strength must be 1.")
        panorama = np.where(mask[..., None], compositing.fill_from_nearest(panorama, ~mask), panorama)
    checked = panoramas.check(panorama, request.encoding)
    return _Input(panorama[..., :3], mask, *exposure.expose(checked, request.encoding))


def _check_mask(mask: np.ndarray | None, panorama: np.ndarray) -> np.ndarray | None:
    """(H, W, 1) uint8 → (H, W) bool. Raise PanoramaError if its shape or size is another, or it is empty."""
    if mask is None:
        return None
    if mask.ndim != 3 or mask.shape[2] != 1:
        raise PanoramaError(f"The mask has shape {mask.shape}, not (height, width, 1).")
    if mask.shape[:2] != panorama.shape[:2]:
        sizes = " × ".join(map(str, mask.shape[1::-1])), " × ".join(map(str, panorama.shape[1::-1]))
        raise PanoramaError(
            f"The mask is {sizes[0]}, but the panorama {sizes[1]}.", "Give a mask of the size of the panorama."
        )
    if not mask.any():
        raise PanoramaError("The mask is empty: nothing would change.", "Paint the area to change white.")
    return mask[..., 0] > 0


def _composite(source: _Input, picture: np.ndarray) -> np.ndarray:
    """Composite the generated sRGB picture (H, W, 3) into the panorama, in its encoding."""
    result = picture
    if source.exposure is not None:
        threshold = inverse_tonemapping.THRESHOLD
        light = exposure.unexpose(np.minimum(picture, threshold), source.exposure)
        still_white = np.minimum(picture, source.picture).min(axis=-1, keepdims=True) >= threshold
        result = np.where(still_white, source.panorama, light)
    if source.mask is not None:
        blended = compositing.blend(result, source.panorama, source.mask)
        result = np.where(source.mask[..., None], blended, source.panorama)
    return np.ascontiguousarray(result, dtype=np.float32)


def _recovered(
    source: _Input, picture: np.ndarray, panorama: np.ndarray, settings: GenerateSettings, models: ModelCache,
    reporter: ProgressReporter,
) -> Recovered:  # fmt: skip
    """Recover the light of the pixels of a linear `panorama` that became white in the sRGB `picture`."""
    assert source.exposure is not None
    threshold = np.float32(settings.sun_threshold)
    white = (picture >= threshold).all(axis=-1) & (source.picture < threshold).any(axis=-1)
    if source.mask is not None:
        white &= source.mask
    if not white.any() or white.all():  # with no other pixels, nothing tells how bright these are
        return Recovered(panorama, None)
    value = float(exposure.unexpose(np.full((1, 1, 1), inverse_tonemapping.THRESHOLD), source.exposure).item())
    seen = np.maximum(panorama, 0)  # colours outside Rec.709 are kept outside the mask
    shown, _ = exposure.expose(seen, "linear")
    made = recovery.of_light(seen.astype(np.float64) / value, white, shown, settings, models, reporter)
    return made._replace(light=np.where(white[..., None], made.light * np.float32(value), panorama))
