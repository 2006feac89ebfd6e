"""Generate: panoramas from a prompt, or around a picture."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..engines import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, EngineSettings, check_engine
from ..imaging.fov import check_fov
from ..protocol.errors import SettingError
from ..protocol.messages import JobReply, JobRequest
from .checks import check_range

#: Heights of a generated panorama in pixels; its width is twice that.
MIN_HEIGHT, MAX_HEIGHT = 256, 2048
#: Both sides of what FLUX makes are multiples of this.
MULTIPLE = 16
#: Longest prompt in characters. The model reads 512 tokens, about 380 words; the backend refuses what is longer.
MAX_PROMPT = 4000
MAX_SEEDS = 16
MAX_TRUE_CFG = 20.0
MAX_SUN_STRENGTH = 100.0

#: How a prompt becomes a panorama.
METHODS: dict[str, str] = {
    "dit360": "DiT360",
    "omnix": "OmniX (a picture first, then around it)",
    "lora": "Another FLUX LoRA",
}


class GenerateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a panorama is generated or edited. None: the method's own default."""

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    #: Classifier-free guidance by the negative prompt; 1: none, at half the time.
    true_cfg_scale: float = 1.0
    #: One of METHODS.
    method: str = "dit360"
    #: LoRA: a .safetensors file, a folder, or a hub id. None: the method's own. "": none.
    lora: str | None = None
    #: Words put before the prompt. None: the method's own.
    trigger: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] | None = None
    #: Of the panorama, in pixels; rounded to a multiple of 16 (`rounded`).
    height: int = 1024
    num_inference_steps: int | None = None
    #: FLUX's embedded guidance.
    guidance_scale: float | None = None
    #: Time shift of the scheduler; None: FLUX's own, by size.
    shift: float | None = None
    #: Whether the result is linear light with clipped lights rebuilt (backend/lighting/), or sRGB.
    hdr: bool = True
    #: Factor on the rebuilt light of suns and lamps; the sRGB value from which on a channel counts as clipped.
    sun_strength: float = 1.0
    sun_threshold: float = 0.98
    #: One panorama for each.
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=MAX_SEEDS)] = (0,)


class View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The camera of a perspective picture, in degrees: see backend/geometry/projection.py."""

    #: From the picture's left edge to its right one. None: by its EXIF.
    fov: float | None = None
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


class GenerateRequest(JobRequest, kw_only=True):
    """Make a panorama for each seed, from a prompt or around a picture. Ends in a GenerateReply."""

    #: (h, w, 3) float32 sRGB in [0, 1], a perspective picture to be completed; None: from the prompt alone.
    picture: np.ndarray | None = None
    #: The picture's camera; its field of view must be given with a picture.
    view: View = View()
    #: The picture's name, for the record ("holiday.jpg").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    engine: EngineSettings
    settings: GenerateSettings


class Recipe(msgspec.Struct, kw_only=True):
    """Everything needed to make a panorama again; its sidecar is this as JSON."""

    panoform: str
    kind: Literal["words", "picture", "edit"]
    #: What it was made with; hub ids are pinned to the revision that was used ("owner/name@revision").
    engine: EngineSettings
    #: The checkpoint and, where OmniX took part, the adapters it loaded, as given.
    model: str
    adapters: str
    #: Nothing in them is left to a default; the one seed is this panorama's.
    settings: GenerateSettings
    #: Of a picture.
    view: View | None = None
    #: Of an edit.
    strength: float | None = None
    extend: bool = False
    exposure: dict[str, float | str] | None = None
    encoding: Literal["linear", "srgb"] = "srgb"
    #: How Blender's world turned what was edited, which no pixel depends on: Euler angles (XYZ) in degrees.
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: What it was made from: name, SHA-256 of the pixels (float32, from the top) and of the mask (a byte each).
    source: str
    source_sha256: str = ""
    mask_sha256: str = ""
    #: Height and width in pixels.
    size: tuple[int, int]
    #: Plain lines that the user should read.
    notices: tuple[str, ...]
    device: str
    dtype: str
    seconds: float
    #: Versions of what computed it: python, torch, diffusers …
    versions: dict[str, str]


class GenerateReply(JobReply, kw_only=True):
    """A panorama for each seed, in that order. Edits end in it too."""

    #: (H, W, 3) float32 each, in its recipe's encoding.
    panoramas: tuple[np.ndarray, ...]
    recipes: tuple[Recipe, ...]

    @property
    def compute_seconds(self) -> float:
        return sum(recipe.seconds for recipe in self.recipes)


def rounded(height: int) -> int:
    """Return the nearest height that can be made."""
    return min(max((height + MULTIPLE // 2) // MULTIPLE * MULTIPLE, MIN_HEIGHT), MAX_HEIGHT)


def check_view(view: View) -> None:
    """Raise SettingError for a field of view or an angle out of range."""
    if view.fov is not None:
        check_fov(view.fov)
    for name, value, limit in (("yaw", view.yaw, 360), ("pitch", view.pitch, 90), ("roll", view.roll, 360)):
        check_range(f"The {name}", value, -limit, limit, "°")


def check_generate(settings: GenerateSettings) -> None:
    """Raise SettingError for anything out of range, also for lengths, which messages are refused for."""
    for name, text in (
        ("The prompt", settings.prompt),
        ("The negative prompt", settings.negative_prompt),
        ("The trigger", settings.trigger or ""),
    ):
        if len(text) > MAX_PROMPT:
            raise SettingError(
                f"{name} is too long: {len(text)} characters.",
                f"Give at most {MAX_PROMPT}; the model reads about 380 words.",
            )
    if not 1 <= len(settings.seeds) <= MAX_SEEDS:
        raise SettingError(f"{len(settings.seeds)} seeds are given.", f"Give 1 to {MAX_SEEDS}.")
    if settings.method not in METHODS:
        raise SettingError(f"There is no method called {settings.method!r}.", f"Choose one of {', '.join(METHODS)}.")
    if settings.method == "lora" and not settings.lora:
        raise SettingError("No LoRA is named.", "Name its .safetensors file, or a hub id (--lora).")
    for seed in settings.seeds:
        check_range("A seed", seed, 0, MAX_SEED)
    check_range("The height", settings.height, MIN_HEIGHT, MAX_HEIGHT)
    check_range("True guidance", settings.true_cfg_scale, 1, MAX_TRUE_CFG)
    check_range("The sun's strength", settings.sun_strength, 0, MAX_SUN_STRENGTH)
    check_range("The sun's threshold", settings.sun_threshold, 0.5, 1)
    check_range("The number of steps", settings.num_inference_steps, 1, MAX_STEPS)
    check_range("Guidance", settings.guidance_scale, 0, MAX_GUIDANCE)
    check_range("The shift", settings.shift, 0.1, 20)


def check(request: GenerateRequest) -> None:
    """Raise SettingError for anything that can be refused without looking at the picture."""
    check_engine(request.engine)
    check_generate(request.settings)
    if request.picture is None:
        if not request.settings.prompt.strip():
            raise SettingError("There is neither a prompt nor a picture.", "Write a prompt, or give a picture.")
        return
    check_view(request.view)
    if request.view.fov is None:
        raise SettingError("The picture's field of view isn't known.", "Give it in degrees (--fov).")
