"""The engines a user can choose, their qualities, and the bounds of what may be asked of them."""

from __future__ import annotations

import msgspec

from .protocol.errors import SettingError

ENGINES: dict[str, str] = {
    "starter": "Starter (built in, preview quality)",
    "flux": "FLUX + OmniX",
}

OFFLOADS = ("none", "model", "sequential")

MAX_SEED = 2**32 - 1
MAX_STEPS = 200
MAX_GUIDANCE = 30.0
MIN_HEIGHT, MAX_HEIGHT = 64, 2048
#: Widest panorama that is read or sent, in pixels (its height is half of it).
MAX_PANORAMA_WIDTH = 16384


class Quality(msgspec.Struct, frozen=True):
    """What one of the panel's three qualities means for an engine."""

    num_inference_steps: int
    #: Height of the panorama the model sees, in pixels; its width is twice that.
    height: int


QUALITIES: dict[str, dict[str, Quality]] = {
    "starter": {"draft": Quality(1, 128), "standard": Quality(1, 256), "best": Quality(1, 512)},
    "flux": {"draft": Quality(8, 512), "standard": Quality(28, 512), "best": Quality(50, 720)},
}


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model runs, and where. Two equal settings share one loaded model."""

    #: One of ENGINES.
    engine: str = "starter"
    #: Base checkpoint: a diffusers folder, a single .safetensors file, or a hub id. None: the engine's own default.
    model: str | None = None
    #: Adapters: a folder in the hub's layout or the flat one, or a hub id. None: the engine's own default.
    adapters: str | None = None
    #: "auto", "cpu", "cuda", "cuda:1", "mps" …
    device: str = "auto"
    #: "auto", "bf16", "fp16" or "fp32".
    dtype: str = "auto"
    #: One of OFFLOADS: what waits in main memory while it is not computing.
    offload: str = "none"


class PerceiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be perceived, and how. None: the engine's default at standard quality."""

    #: Names from `maps.MAPS`.
    maps: tuple[str, ...]
    num_inference_steps: int | None = None
    #: FLUX's embedded guidance.
    guidance_scale: float | None = None
    seed: int = 0
    #: Height in pixels that the model sees (a multiple of 16); the maps come back at this size.
    height: int | None = None
    #: Replace NaN, infinite and negative pixels (0, the largest finite value, 0) where they would be refused otherwise.
    repair: bool = False


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingError(f"{name} is {value:g}.", f"It must lie between {low:g} and {high:g}.")


def check_engine(settings: EngineSettings) -> None:
    """Raises SettingError for an unknown engine, dtype or offload mode."""
    for name, value, known in (
        ("engine", settings.engine, tuple(ENGINES)),
        ("dtype", settings.dtype, ("auto", "bf16", "fp16", "fp32")),
        ("offload mode", settings.offload, OFFLOADS),
    ):
        if value not in known:
            raise SettingError(f"There is no {name} called {value!r}.", f"Choose one of {', '.join(known)}.")


def check_perceive(settings: PerceiveSettings) -> None:
    """Raises SettingError for steps, guidance, seed or height out of range (names of maps: `maps.check_names`)."""
    _in_range("The seed", settings.seed, 0, MAX_SEED)
    if settings.num_inference_steps is not None:
        _in_range("The number of steps", settings.num_inference_steps, 1, MAX_STEPS)
    if settings.guidance_scale is not None:
        _in_range("Guidance", settings.guidance_scale, 0, MAX_GUIDANCE)
    if settings.height is not None:
        _in_range("The height", settings.height, MIN_HEIGHT, MAX_HEIGHT)
        if settings.height % 16:
            lower = settings.height // 16 * 16
            raise SettingError(
                f"The height is {settings.height}, not a multiple of 16.", f"Use {lower} or {lower + 16}."
            )
