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
#: Width and height of FLUX's output are multiples of this.
MULTIPLE = 16
#: Longest prompt in characters. The model reads 512 tokens, about 380 words; the backend rejects longer prompts.
MAX_PROMPT = 4000
MAX_SEEDS = 16
MAX_TRUE_CFG = 20.0
MAX_SUN_STRENGTH = 100.0

#: Methods of generating a panorama from a prompt: name → label.
METHODS: dict[str, str] = {
    "dit360": "DiT360",
    "omnix": "OmniX (a picture first, then around it)",
    "lora": "Another FLUX LoRA",
}


#: EXR holds linear light as float32, PNG sRGB in 16 bits.
FileFormat = Literal["exr", "png"]


class GenerateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a panorama is generated or edited. None: the method's default."""

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    #: Classifier-free guidance with the negative prompt; 1: off, which takes half the time.
    true_cfg_scale: float = 1.0
    #: One of METHODS.
    method: str = "dit360"
    #: LoRA: a .safetensors file, a folder, or a hub id. None: the method's default. "": none.
    lora: str | None = None
    #: Text put before the prompt. None: the method's default.
    trigger: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] | None = None
    #: Height of the panorama in pixels; rounded to a multiple of 16 (`rounded`).
    height: int = 1024
    num_inference_steps: int | None = None
    #: FLUX's embedded guidance.
    guidance_scale: float | None = None
    #: Time shift of the scheduler; None: FLUX's default for the size.
    shift: float | None = None
    #: Whether the result is linear HDR with clipped lights reconstructed (backend/lighting/), or sRGB.
    hdr: bool = True
    #: Whether the starter's maps of the result measure that light, which takes seconds; else the picture alone tells.
    measure_light: bool = True
    #: Factor on the reconstructed light of suns and lamps; sRGB value at and above which a channel counts as clipped.
    sun_strength: float = 1.0
    sun_threshold: float = 0.98
    #: One panorama is generated for each.
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=MAX_SEEDS)] = (0,)


class View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The camera of a perspective picture, in degrees: see backend/geometry/projection.py."""

    #: Horizontal field of view. None: from the EXIF.
    fov: float | None = None
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


class GenerateRequest(JobRequest, kw_only=True):
    """Generate a panorama for each seed, from a prompt or around a picture. Ends in a GenerateReply."""

    #: (h, w, 3) float32 sRGB in [0, 1], a perspective picture to be completed; None: from the prompt alone.
    picture: np.ndarray | None = None
    #: The picture's camera; its field of view must be given with a picture.
    view: View = View()
    #: The picture's name, stored in the recipe ("holiday.jpg").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    #: Format of the reply's files; "png" only without HDR.
    file_format: FileFormat = "exr"
    engine: EngineSettings
    settings: GenerateSettings


class LightRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the light that a panorama clipped was measured by its maps (backend/lighting/solve.py)."""

    #: How much of the uncertainty was removed, 0 (the estimate from the picture) to 1; number of points measured; the
    #: typical factor between measured and solved irradiance there.
    confidence: float
    points: int
    spread: float


class Recipe(msgspec.Struct, kw_only=True):
    """Everything needed to generate a panorama again; stored as JSON beside it."""

    panoform: str
    #: "words": from a prompt. "picture": around a picture.
    kind: Literal["words", "picture", "edit"]
    #: The engine; hub ids are pinned to the revision used ("owner/name@revision").
    engine: EngineSettings
    #: Checkpoint and, where OmniX was used, adapters, as named in the settings.
    model: str
    adapters: str
    #: Weights on this computer: name → SHA-256 (backend/models/records.py).
    weights: dict[str, str] = {}
    #: Without open defaults, and with the seed of this panorama only.
    settings: GenerateSettings
    #: Only around a picture.
    view: View | None = None
    #: Only of an edit.
    strength: float | None = None
    extend: bool = False
    exposure: dict[str, float | str] | None = None
    #: How the light that was clipped was measured; None where nothing was clipped or measured.
    light: LightRecord | None = None
    #: Of the computed panorama; an EXR holds linear light in any case.
    encoding: Literal["linear", "srgb"] = "srgb"
    #: As in EditRequest.
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: The source: name, SHA-256 of its pixels (float32, top row first) and of the mask (one byte per pixel).
    source: str
    source_sha256: str = ""
    mask_sha256: str = ""
    #: Height and width in pixels.
    size: tuple[int, int]
    #: Messages for the user.
    notices: tuple[str, ...]
    device: str
    dtype: str
    seconds: float
    #: Software versions: python, torch, diffusers …
    versions: dict[str, str]


class PanoramaFile(msgspec.Struct, kw_only=True):
    """The file of one panorama, with the recipe in its header (`panorama_file.ATTRIBUTE`)."""

    #: Content of the file, (bytes,) uint8.
    data: np.ndarray
    recipe: Recipe


class GenerateReply(JobReply, kw_only=True):
    """A panorama for each seed, in that order; also the reply to an edit."""

    panoramas: tuple[PanoramaFile, ...]

    @property
    def compute_seconds(self) -> float:
        return sum(panorama.recipe.seconds for panorama in self.panoramas)


def rounded(height: int) -> int:
    """Return the nearest height that can be generated."""
    return min(max((height + MULTIPLE // 2) // MULTIPLE * MULTIPLE, MIN_HEIGHT), MAX_HEIGHT)


def check_format(file_format: FileFormat, *, linear: bool) -> None:
    """Raise SettingError where files of that format can't hold the panoramas."""
    if linear and file_format == "png":
        raise SettingError("A PNG file can't hold linear light.", "Choose an EXR file.")


def check_view(view: View) -> None:
    """Raise SettingError for a field of view or an angle out of range."""
    if view.fov is not None:
        check_fov(view.fov)
    for name, value, limit in (("yaw", view.yaw, 360), ("pitch", view.pitch, 90), ("roll", view.roll, 360)):
        check_range(f"The {name}", value, -limit, limit, "°")


def check_generate(settings: GenerateSettings) -> None:
    """Raise SettingError for anything out of range, including lengths that the wire format would reject."""
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
    if len(set(settings.seeds)) < len(settings.seeds):
        raise SettingError("A seed is given twice.", "Give each once: it gives the same panorama again.")
    if settings.method not in METHODS:
        raise SettingError(f"There is no method called {settings.method!r}.", f"Choose one of {', '.join(METHODS)}.")
    if settings.method == "lora" and not settings.lora:
        raise SettingError("No LoRA is given.", "Give a .safetensors file or a hub id (--lora).")
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
    """Raise SettingError for invalid settings; the pixels are not checked."""
    check_engine(request.engine, "text_to_panorama", "outpaint")
    check_generate(request.settings)
    check_format(request.file_format, linear=request.settings.hdr)
    if request.picture is None:
        if not request.settings.prompt.strip():
            raise SettingError("There is neither a prompt nor a picture.", "Write a prompt, or give a picture.")
        return
    check_view(request.view)
    if request.view.fov is None:
        raise SettingError("The picture's field of view is unknown.", "Give it in degrees (--fov).")
