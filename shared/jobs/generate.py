"""What a user can ask to be made or changed, and its bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..engines import MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from ..protocol.errors import SettingError

#: Heights of a generated panorama in pixels; its width is twice that.
MIN_HEIGHT, MAX_HEIGHT = 256, 2048
#: Both sides of what FLUX makes are multiples of this.
MULTIPLE = 16
#: Longest prompt. The model reads 512 tokens of it, about 380 words; the backend refuses what is longer.
MAX_PROMPT = 4000
MAX_SEEDS = 16
#: Horizontal fields of view in degrees that a perspective picture can have.
MIN_FOV, MAX_FOV = 5.0, 170.0
MAX_TRUE_CFG = 20.0
MAX_SUN_STRENGTH = 100.0

#: How words become a panorama.
METHODS: dict[str, str] = {
    "dit360": "DiT360",
    "omnix": "OmniX (a picture first, then around it)",
    "lora": "Another FLUX LoRA",
}


class GenerateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How something is made or changed. None: the method's own default."""

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    #: Classifier-free guidance by the negative prompt; 1: none, and half the time.
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
    #: Whether words and pictures become linear light with the clipped lights rebuilt (backend/lighting), or sRGB.
    hdr: bool = True
    #: Times the light of suns and lamps; the sRGB value from which on a channel counts as clipped.
    sun_strength: float = 1.0
    sun_threshold: float = 0.98
    #: One panorama for each.
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=MAX_SEEDS)] = (0,)


class View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a perspective picture stands in the panorama, in degrees: see backend/geometry/projection.py."""

    #: From its left edge to its right one. None: by the picture's EXIF.
    fov: float | None = None
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


def rounded(height: int) -> int:
    """The nearest height that can be made."""
    return min(max((height + MULTIPLE // 2) // MULTIPLE * MULTIPLE, MIN_HEIGHT), MAX_HEIGHT)


def check_fov(fov: float) -> None:
    """Raises SettingError where no perspective picture can have this horizontal field of view, in degrees."""
    _in_range("The field of view", fov, MIN_FOV, MAX_FOV, "°")


def check_view(view: View) -> None:
    """Raises SettingError for a field of view or an angle out of range."""
    if view.fov is not None:
        check_fov(view.fov)
    for name, value, limit in (("yaw", view.yaw, 360), ("pitch", view.pitch, 90), ("roll", view.roll, 360)):
        _in_range(f"The {name}", value, -limit, limit, "°")


def check_strength(strength: float) -> None:
    """Raises SettingError unless it lies in (0, 1]."""
    if not 0 < strength <= 1:
        raise SettingError(f"The strength is {strength:g}.", "It must be more than 0, and at most 1.")


def check_generate(settings: GenerateSettings) -> None:
    """Raises SettingError for anything out of range, also for lengths, which messages are refused for."""
    for name, words in (
        ("The prompt", settings.prompt),
        ("The negative prompt", settings.negative_prompt),
        ("The trigger", settings.trigger or ""),
    ):
        if len(words) > MAX_PROMPT:
            raise SettingError(
                f"{name} is too long: {len(words)} characters.",
                f"Give at most {MAX_PROMPT}; the model reads about 380 words.",
            )
    if not 1 <= len(settings.seeds) <= MAX_SEEDS:
        raise SettingError(f"{len(settings.seeds)} seeds are given.", f"Give 1 to {MAX_SEEDS}.")
    if settings.method not in METHODS:
        raise SettingError(f"There is no method called {settings.method!r}.", f"Choose one of {', '.join(METHODS)}.")
    if settings.method == "lora" and not settings.lora:
        raise SettingError("No LoRA is named.", "Name its .safetensors file, or a hub id (--lora).")
    for seed in settings.seeds:
        _in_range("A seed", seed, 0, MAX_SEED)
    _in_range("The height", settings.height, MIN_HEIGHT, MAX_HEIGHT)
    _in_range("True guidance", settings.true_cfg_scale, 1, MAX_TRUE_CFG)
    _in_range("The sun's strength", settings.sun_strength, 0, MAX_SUN_STRENGTH)
    _in_range("The sun's threshold", settings.sun_threshold, 0.5, 1)
    for name, value, low, high in (
        ("The number of steps", settings.num_inference_steps, 1, MAX_STEPS),
        ("Guidance", settings.guidance_scale, 0, MAX_GUIDANCE),
        ("The shift", settings.shift, 0.1, 20),
    ):
        if value is not None:
            _in_range(name, value, low, high)


def _in_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        raise SettingError(
            f"{name} is {value:.10g}{unit}.", f"It must lie between {low:.10g}{unit} and {high:.10g}{unit}."
        )
