"""Perceive: maps of one panorama."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..engines import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, EngineSettings, check_engine
from ..maps import check_names
from ..protocol.errors import SettingError
from ..protocol.messages import JobReply, JobRequest
from .checks import check_range

#: Range of the model's input height in pixels, and its step.
MIN_HEIGHT, MAX_HEIGHT = 64, 2048
MULTIPLE = 16


class PerceiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to perceive, and how. None: the engine's default at standard quality."""

    #: Names from `maps.MAPS`.
    maps: tuple[str, ...]
    num_inference_steps: int | None = None
    #: FLUX's embedded guidance.
    guidance_scale: float | None = None
    seed: int = 0
    #: Height of the model's input in pixels (a multiple of 16); the maps have the same size.
    height: int | None = None
    #: Replace NaN, infinite and negative pixels (0, the largest finite value, 0) instead of rejecting them.
    repair: bool = False
    #: Approximations that save time, off by default. Threshold of the first-block cache, 0 for none: steps whose first
    #: block changes less take the changes of all others from the step before.
    cache: float = 0.0
    #: A LoRA of FLUX for few steps (a file, folder or hub id) that is used beside the adapters, and its scale.
    turbo: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    turbo_scale: float = 1.0


class PerceiveRequest(JobRequest, kw_only=True):
    """Perceive maps of one panorama. Ends in a PerceiveReply."""

    #: (H, W, 3) float32, W = 2·H to within 1 %. Finite; negative only where a colour lies outside Rec.709.
    panorama: np.ndarray
    #: "linear": scene-referred linear Rec.709 light, any exposure. "srgb": display-referred, in [0, 1].
    encoding: Literal["linear", "srgb"]
    #: Height and width of the source in pixels, where the panorama was shrunk (shared/imaging/shrink.py).
    source_size: tuple[int, int] | None = None
    #: Name of the source, stored in the result ("interior.exr").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    #: How its file was read (colours that were converted, the layer, the camera's pose), stored in the result.
    source_notes: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    engine: EngineSettings
    settings: PerceiveSettings
    #: Absolute path of a result folder that the backend also writes; "": none.
    directory: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    #: Whether files in that folder that are not Panoform's may be replaced.
    overwrite: bool = False


class Info(msgspec.Struct, kw_only=True):
    """Record of a result, its source and settings; stored as JSON in `maps.json` of a result folder."""

    panoform: str
    #: Name of the engine; checkpoint and adapters, by hub id or name.
    engine: str
    model: str
    adapters: str
    #: Weights on this computer: name → SHA-256 (backend/models/records.py).
    weights: dict[str, str] = {}
    #: A message for the user (an untrained model), else "".
    notice: str
    #: Maps in this result: name → meaning of the values.
    maps: dict[str, str]
    #: Description of the axes of the normals.
    frame: str
    #: Name of the source; its (height, width) in pixels; that of the maps.
    source: str
    source_size: tuple[int, int]
    #: How its file was read, where that isn't plain: colours that were converted, the layer, the camera's pose.
    source_notes: tuple[str, ...] = ()
    size: tuple[int, int]
    #: How HDR was exposed to the model's [0, 1] input (backend/lighting/exposure.py); None for an sRGB source.
    exposure: dict[str, float | str] | None
    #: The floor that the distances show: its unit normal, upwards, in the axes of `frame`, and how far the panorama's
    #: place lies above it, in the unit of the distances. The normal is +Z where a tilt isn't certain; None: no floor.
    floor: tuple[float, float, float, float] | None = None
    seed: int
    num_inference_steps: int
    guidance_scale: float
    #: What was approximated to save time, by the names of settings; {} for nothing.
    approximations: dict[str, float | str] = {}
    device: str
    dtype: str
    #: Seconds for each map, and in total ("all").
    seconds: dict[str, float]
    #: Software versions: python, torch, diffusers …
    versions: dict[str, str]


class PerceiveReply(JobReply, kw_only=True):
    """The maps."""

    #: Map name → content of its file in a result folder (maps.MAPS: `filename`), (bytes,) uint8.
    maps: dict[str, np.ndarray]
    info: Info

    @property
    def compute_seconds(self) -> float:
        return self.info.seconds["all"]


def check_perceive(settings: PerceiveSettings) -> None:
    """Raise SettingError for an unknown map, and for numbers out of range."""
    check_names(settings.maps)
    check_range("The seed", settings.seed, 0, MAX_SEED)
    check_range("The number of steps", settings.num_inference_steps, 1, MAX_STEPS)
    check_range("Guidance", settings.guidance_scale, 0, MAX_GUIDANCE)
    check_range("The threshold of the cache", settings.cache, 0, 1)
    check_range("The scale of the turbo LoRA", settings.turbo_scale, 0, 2)
    check_range("The height", settings.height, MIN_HEIGHT, MAX_HEIGHT)
    if settings.height is not None and settings.height % MULTIPLE:
        lower = settings.height // MULTIPLE * MULTIPLE
        raise SettingError(
            f"The height is {settings.height}, not a multiple of {MULTIPLE}.", f"Use {lower} or {lower + MULTIPLE}."
        )


def check(request: PerceiveRequest) -> None:
    """Raise SettingError for invalid settings; the pixels are not checked."""
    check_engine(request.engine, "perceive")
    check_perceive(request.settings)
