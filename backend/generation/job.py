"""Make panoramas of words or a picture, and change some: what the engine does for `generate` and `edit`.

Words      DiT360, or any LoRA, draws the panorama; or FLUX draws a square picture, which then is completed.
A picture  is hung into the sphere where its camera looked, and OmniX completes it (`image_to_pano`).
An edit    goes some way back to noise and from there to what the words say, inside its mask.

Pictures are (H, W, 3) float32 sRGB in [0, 1]; panoramas have W = 2·H; masks are (H, W) bool.
"""

from __future__ import annotations

import math
import time

import msgspec
import numpy as np
from scipy.ndimage import distance_transform_edt

from ...shared.engines import EngineSettings, check_engine
from ...shared.jobs.generate import MIN_HEIGHT, GenerateSettings, View, check_generate, check_strength, check_view
from ...shared.protocol.errors import PanoramaError, SettingError, WeightsError
from ..geometry import projection
from ..io import panoramas
from ..io.generated import Generated, sha256
from ..io.panoramas import Encoding
from ..jobs.watch import Watch
from ..lighting import exposure, inverse_tonemapping
from ..models.flux import checkpoints
from ..models.loaded import Loader
from . import sampler
from .sampler import Drawing, Embeds
from .session import Studio

#: Of the square picture that words become on OmniX's way, in degrees.
SQUARE_FOV = 90.0
#: Least of the sides of a picture to complete, in pixels.
MIN_SIDE = 16
#: Share of its height over which what is new in a panorama fades into what was there.
FEATHER = 0.01

WORDS_NEED_FLUX = "Words need FLUX.1-dev; the built-in starter only completes a picture."
GET_FLUX = (
    f"Accept its licence at https://huggingface.co/{checkpoints.FLUX_ID}, set HF_TOKEN or run `hf auth login`, and "
    "choose the engine flux (--engine flux): it is fetched then. Or name a copy of yours (--model)."
)


def generate(
    loader: Loader,
    *,
    picture: np.ndarray | None,
    view: View,
    source: str,
    engine: EngineSettings,
    settings: GenerateSettings,
    watch: Watch,
) -> list[Generated]:
    """A panorama for each seed, of the words in `settings` or of `picture` (h, w, 3), with words or without.

    A seed's panorama doesn't depend on the other seeds, and is the same bit for bit each time on one machine.
    Raises InputError, ModelError, and Cancelled out of `watch`, within one step.
    """
    check_engine(engine)
    check_generate(settings)
    if picture is not None:
        check_view(view)
        _check_picture(picture)
        if view.fov is None:
            raise SettingError("The picture's field of view isn't known.", "Give it in degrees (--fov).")
        settings = msgspec.structs.replace(settings, method="omnix")
    elif not settings.prompt.strip():
        raise SettingError("There are no words to make a panorama of.", "Write what it shows, or give a picture.")
    if picture is None:
        _need_flux(engine)
    if settings.method == "omnix":
        _refuse_guidance(settings)
    studio = Studio(loader, engine, settings, watch)
    if not studio.config.trained:
        raise WeightsError("The built-in starter is not trained yet, so it can't complete a picture.", GET_FLUX)
    words = studio.settings.prompt
    square_first = settings.method == "omnix" and picture is None
    embeds, *square_embeds = studio.embeds(
        [f"{studio.settings.trigger} {words}".strip(), *([words] if square_first else [])]
    )
    results = []
    with studio.lora():
        for seed, draw in studio.drawings(square_first=square_first):
            began, seen, pose = time.monotonic(), picture, view
            if square_embeds:
                seen, pose = sampler.array(draw.square(square_embeds[0])), View(fov=SQUARE_FOV)
            if seen is None:
                made = sampler.array(draw.words(embeds, studio.base_height))
            else:
                made = _complete(draw, seen, pose, embeds, studio.base_height)
            made = projection.limit_poles(studio.enlarge(draw, made, None, embeds)).clip(0, 1)
            if seen is not None:
                made = _put_in(made, seen, pose)
            if settings.hdr:
                made = inverse_tonemapping.reconstruct(
                    made, sun_strength=settings.sun_strength, threshold=settings.sun_threshold
                )
            recipe = studio.recipe(seed, began, kind="words" if picture is None else "picture", source=source)
            recipe.encoding = "linear" if settings.hdr else "srgb"
            if picture is not None:
                recipe = msgspec.structs.replace(recipe, view=view, source_sha256=sha256(picture))
            results.append(Generated(made, recipe))
    return results


def edit(
    loader: Loader,
    *,
    panorama: np.ndarray,
    encoding: Encoding,
    mask: np.ndarray | None,
    strength: float,
    extend: bool,
    source: str,
    engine: EngineSettings,
    settings: GenerateSettings,
    watch: Watch,
) -> list[Generated]:
    """`panorama`, changed where `mask` is true (None: everywhere), for each seed; in its size and encoding.

    It is (H, W, 3), or 4 with opaque alpha, which is dropped.

    Outside the mask it keeps every bit. `strength`, in (0, 1], is how far it may go from what was there; with `extend`
    nothing is known in the mask, and what is there is not looked at. In linear light, what is white before and after
    keeps its light; whatever else is white becomes as bright as white is.
    Raises InputError, ModelError, and Cancelled out of `watch`, within one step.
    """
    check_engine(engine)
    check_generate(settings)
    check_strength(strength)
    if settings.method == "omnix":
        raise SettingError("OmniX can't edit a panorama.", "Choose the method dit360 or lora.")
    if panorama.ndim == 3 and panorama.shape[1] != 2 * panorama.shape[0]:
        panoramas.check_size(*panorama.shape[:2])
        raise PanoramaError(
            f"The panorama is {panorama.shape[1]} × {panorama.shape[0]}, not exactly 2:1.", "Scale it, then edit it."
        )
    _check_mask(mask, panorama)
    if mask is not None and not settings.prompt.strip():
        raise SettingError("There are no words for what is to be in the mask.", "Write them.")
    _need_flux(engine)
    source_sha256 = sha256(panorama[..., :3])
    if extend:
        if mask is None or mask.all() or strength < 1:
            raise SettingError("There is nothing to extend from.", "Mask what is missing; the strength must be 1.")
        panorama = np.where(mask[..., None], _nearest(panorama, ~mask), panorama)
    checked = panoramas.check(panorama, encoding)
    panorama = panorama[..., :3]
    height = len(panorama)
    studio = Studio(
        loader, engine, msgspec.structs.replace(settings, height=min(settings.height, max(height, MIN_HEIGHT))), watch
    )
    (embeds,) = studio.embeds([f"{studio.settings.trigger} {studio.settings.prompt}".strip()])
    exposed, record = exposure.expose(checked, encoding)

    def at(size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Picture and mask at that height; a pixel that has any of the mask is in it."""
        shrunk = None if mask is None else panoramas.resize(mask[..., None].astype(np.float32), size)[..., 0] > 0
        return panoramas.resize(exposed, size), shrunk

    if studio.settings.height < height:
        drawn = studio.settings.height
        studio.notices.append(f"It was drawn at {2 * drawn} × {drawn} and enlarged to {2 * height} × {height}.")
    base, base_mask = at(studio.base_height)
    _, full_mask = at(studio.settings.height)
    results = []
    with studio.lora():
        for seed, draw in studio.drawings(strength=strength):
            began = time.monotonic()
            made = sampler.array(draw.change(sampler.tensor(base), sampler.mask_tensor(base_mask), strength, embeds))
            made = projection.limit_poles(studio.enlarge(draw, made, full_mask, embeds)).clip(0, 1)
            made = panoramas.resize(made, height)
            if record is not None:
                light = exposure.unexpose(np.minimum(made, inverse_tonemapping.THRESHOLD), record)
                still_white = np.minimum(made, exposed).min(axis=-1, keepdims=True) >= inverse_tonemapping.THRESHOLD
                made = np.where(still_white, panorama, light)
            if mask is not None:
                made = np.where(mask[..., None], _fade(made, panorama, mask), panorama)
            recipe = studio.recipe(seed, began, kind="edit", source=source)
            recipe = msgspec.structs.replace(
                recipe, strength=strength, extend=extend, exposure=record, encoding=encoding, size=(height, 2 * height),
                source_sha256=source_sha256, mask_sha256="" if mask is None else sha256(mask),
            )  # fmt: skip
            results.append(Generated(np.ascontiguousarray(made, dtype=np.float32), recipe))
    return results


def _complete(draw: Drawing, picture: np.ndarray, view: View, embeds: Embeds, height: int) -> np.ndarray:
    """The panorama around a picture. The model knows pictures in the middle only: it is shown it there."""
    columns = round(view.yaw / 360 * 2 * height)
    assert view.fov is not None
    canvas, _ = projection.panorama_from_picture(
        picture, height, view.fov, yaw=view.yaw - columns * 180 / height, pitch=view.pitch, roll=view.roll
    )
    return np.roll(sampler.array(draw.around(sampler.tensor(canvas), embeds)), -columns, axis=1)


def _put_in(panorama: np.ndarray, picture: np.ndarray, view: View) -> np.ndarray:
    """The panorama with the picture's own pixels where it shows them; the model has redrawn these."""
    assert view.fov is not None
    canvas, shown = projection.panorama_from_picture(
        picture, len(panorama), view.fov, yaw=view.yaw, pitch=view.pitch, roll=view.roll
    )
    return _fade(canvas, panorama, shown) if shown.any() else panorama


def _fade(new: np.ndarray, old: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`new` inside the mask, which `old` fades into from its edge inwards; across the seam too."""
    if mask.all():  # no edge
        return new
    height, width = mask.shape
    reach = math.ceil(FEATHER * height)
    around = np.pad(mask, ((0, 0), (reach, reach)), mode="wrap")
    depth = np.asarray(distance_transform_edt(around))[:, reach : reach + width]
    # `new` weighs all of it in the middle of the thinnest mask.
    over = min(FEATHER * height, depth.max())
    weight = np.minimum(depth / over, 1)[..., None].astype(np.float32)
    # Not old + weight · (new − old), which leaves of a sun's thousands more than what is dark afterwards.
    return (1 - weight) * old + weight * new


def _nearest(panorama: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The panorama with every pixel that isn't known as the nearest that is, round the seam."""
    width = known.shape[1]
    around = np.concatenate([known] * 3, axis=1)
    nearest = np.asarray(distance_transform_edt(~around, return_distances=False, return_indices=True))
    rows, columns = nearest[:, :, width : 2 * width]
    return panorama[rows, columns % width]


def _need_flux(engine: EngineSettings) -> None:
    if engine.engine != "flux":
        raise WeightsError(WORDS_NEED_FLUX, GET_FLUX)


def _refuse_guidance(settings: GenerateSettings) -> None:
    if settings.true_cfg_scale > 1 or settings.shift is not None:
        raise SettingError(
            "OmniX has neither negative prompt nor shift.", "Leave them out, or choose another method for words."
        )


def _check_picture(picture: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise PanoramaError(f"The picture has shape {picture.shape}, not (height, width, 3).", "Give an RGB picture.")
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise PanoramaError(f"The picture is {width} × {height}.", f"Give one of at least {MIN_SIDE} pixels a side.")
    if not (np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1):
        raise PanoramaError("The picture has values outside 0 to 1.", "Give it as sRGB.")


def _check_mask(mask: np.ndarray | None, panorama: np.ndarray) -> None:
    if mask is None:
        return
    if mask.shape != panorama.shape[:2]:
        sizes = " × ".join(map(str, mask.shape[::-1])), " × ".join(map(str, panorama.shape[1::-1]))
        raise PanoramaError(
            f"The mask is {sizes[0]}, but the panorama {sizes[1]}.", "Make it as large as the panorama."
        )
    if not mask.any():
        raise PanoramaError("The mask is empty: nothing would change.", "Paint white what is to change.")
