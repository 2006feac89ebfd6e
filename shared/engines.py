"""The engines a user can choose, as data: capabilities, quality presets, and the limits of settings."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .protocol.errors import SettingError

#: perceive: maps of a panorama. outpaint: a panorama around a picture. text_to_panorama, edit: from a prompt.
#: refine: add detail to an enlarged panorama, window by window. texture: views of an object, from its shape and a
#: reference picture. texture_from_prompt: from a prompt alone. draw_views: those views without a mesh.
Capability = Literal[
    "perceive", "outpaint", "text_to_panorama", "edit", "refine", "texture", "texture_from_prompt", "draw_views"
]  # fmt: skip

#: auto: what fits stays on the device. none: everything. model: only what is in use. sequential: as little as possible.
OFFLOADS = ("auto", "none", "model", "sequential")
#: Computed as with auto, from FLUX's weights rounded to 8 or 4 bit when they are loaded.
ROUNDINGS = ("int8", "nf4")
DTYPES = ("auto", "bf16", "fp16", "fp32", *ROUNDINGS)

MAX_SEED = 2**32 - 1
MAX_STEPS = 200
MAX_GUIDANCE = 30.0
#: Maximum width of a panorama that is read or sent, in pixels (its height is half of it).
MAX_PANORAMA_WIDTH = 16384


class Quality(msgspec.Struct, frozen=True):
    """An engine's settings at one of the panel's three quality presets."""

    #: Steps of perception, or of the views of an object.
    num_inference_steps: int
    #: Height of the model's input panorama in pixels (its width is twice that), or side of the views.
    height: int
    #: Steps of generation; 0 for an engine that generates no panoramas.
    generation_steps: int = 0


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. `family` selects its loader in the backend (backend/models/)."""

    name: str
    #: Shown in menus; the part in brackets is a description.
    label: str
    #: Model architecture, which determines the code that loads it; "projection": none.
    family: Literal["flux", "sd21", "projection"]
    capabilities: frozenset[Capability]
    #: Presets "draft", "standard" and "best".
    qualities: dict[str, Quality]
    #: Whether its weights come with Panoform, so that no checkpoint is needed.
    bundled: bool = False
    #: Precision that "auto" stands for; "auto": the best for the device.
    dtype: str = "auto"

    @property
    def short_label(self) -> str:
        """The label without the part in brackets."""
        return self.label.split(" (")[0]

    def can(self, capability: Capability) -> bool:
        """Return whether the engine has this capability."""
        return capability in self.capabilities


ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="starter",
            label="Starter (built in, preview quality)",
            family="flux",
            capabilities=frozenset({"perceive", "outpaint"}),
            qualities={"draft": Quality(1, 128, 8), "standard": Quality(1, 256, 28), "best": Quality(1, 512, 50)},
            bundled=True,
            dtype="fp32",
        ),
        EngineSpec(
            name="flux",
            label="FLUX + OmniX",
            family="flux",
            capabilities=frozenset({"perceive", "outpaint", "text_to_panorama", "edit", "refine"}),
            qualities={"draft": Quality(8, 512, 8), "standard": Quality(28, 512, 28), "best": Quality(50, 720, 50)},
        ),
        EngineSpec(
            name="projection",
            label="Front projection (built in, preview quality)",
            family="projection",
            capabilities=frozenset({"texture"}),
            qualities={"draft": Quality(1, 512), "standard": Quality(1, 1024), "best": Quality(1, 1024)},
            bundled=True,
        ),
        EngineSpec(
            name="multiview",
            label="MV-Adapter (Stable Diffusion 2.1)",
            family="sd21",
            capabilities=frozenset({"texture", "texture_from_prompt", "draw_views"}),
            qualities={"draft": Quality(12, 512), "standard": Quality(30, 512), "best": Quality(50, 512)},
        ),
    )
}
QUALITIES = ("draft", "standard", "best")


def engines_for(*capabilities: Capability) -> list[str]:
    """Return the names of the engines that have any of the capabilities, the default first."""
    return [spec.name for spec in ENGINES.values() if spec.capabilities & set(capabilities)]


def default_engine(capability: Capability) -> str:
    """Return the name of the default engine for a capability: the first that has it."""
    return engines_for(capability)[0]


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine runs, and where."""

    #: One of ENGINES.
    engine: str = "starter"
    #: Base checkpoint: a diffusers folder, a single .safetensors or .gguf file, or a hub id ("owner/name" or with
    #: "@revision"). None: the engine's own default.
    model: str | None = None
    #: Adapters: a folder in the hub's layout or the flat one, a hub id, or (of family sd21) a file. None: the engine's
    #: own default.
    adapters: str | None = None
    #: "auto", "cpu", "cuda", "cuda:1", "mps" …
    device: str = "auto"
    #: One of DTYPES.
    dtype: str = "auto"
    #: One of OFFLOADS: which weights stay in main memory while they are not in use.
    offload: str = "auto"
    #: Most gigabytes (2^30 bytes) of a GPU's memory to take; None: what is free.
    memory: float | None = None
    #: Kernel of attention, by its name in diffusers' dispatcher; "auto": the one that PyTorch chooses.
    attention: Annotated[str, msgspec.Meta(max_length=64)] = "auto"
    #: Whether FLUX's blocks are compiled, which takes a minute or more at the first job.
    compile: bool = False
    #: Whether records hold the paths of weights on this computer, which name its folders and user.
    record_paths: bool = False

    @property
    def spec(self) -> EngineSpec:
        """The EngineSpec of `engine`. Raise SettingError for an unknown engine."""
        _check_choice("engine", self.engine, tuple(ENGINES))
        return ENGINES[self.engine]


def check_engine(settings: EngineSettings, *capabilities: Capability) -> None:
    """Raise SettingError for settings that are unknown or not the engine's, or one with none of `capabilities`."""
    able = engines_for(*capabilities) if capabilities else list(ENGINES)
    if settings.engine not in ENGINES:
        _check_choice("engine", settings.engine, tuple(able))
    if settings.engine not in able:
        raise SettingError(f"The engine {settings.engine} can't do this.", f"Choose {' or '.join(able)}.")
    _check_choice("dtype", settings.dtype, DTYPES)
    _check_choice("offload mode", settings.offload, OFFLOADS)
    if settings.memory is not None and not 0 < settings.memory < float("inf"):
        raise SettingError(f"The memory is {settings.memory:g} GB.", "Give a number above 0.")
    if settings.spec.family == "flux":
        return
    if settings.dtype in ROUNDINGS:
        raise SettingError(f"The engine {settings.engine} has no {settings.dtype}.", "Choose auto, bf16, fp16 or fp32.")
    if settings.memory is not None or settings.attention != "auto" or settings.compile:
        raise SettingError(
            f"The engine {settings.engine} has no memory budget, attention or compiled blocks.", "Leave these out."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingError(f"There is no {name} called {value!r}.", f"Choose one of {', '.join(choices)}.")
